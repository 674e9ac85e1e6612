-- Renew a replica's lease and store its load. A replica that is no longer registered was fenced.
-- ARGV: replica, lease_ms, load (JSON)
local id = ARGV[1]
if not redis.call('ZSCORE', REPLICAS, id) then return 'fenced' end
redis.call('ZADD', REPLICAS, now_ms() + ARGV[2], id)
redis.call('HSET', replica_key(id), 'load', ARGV[3])
return 'ok'
