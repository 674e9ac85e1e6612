-- Leave word for a replica. ARGV: replica, order
tell(ARGV[1], ARGV[2])
return 'ok'
