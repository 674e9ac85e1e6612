-- Let a replica take no new work. ARGV: replica
if redis.call('EXISTS', replica_key(ARGV[1])) == 1 then
  redis.call('HSET', replica_key(ARGV[1]), 'state', 'draining')
end
return 'ok'
