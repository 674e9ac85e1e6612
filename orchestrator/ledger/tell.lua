-- Leave word for a replica. ARGV: replica, message
tell(ARGV[1], ARGV[2])
return 'ok'
