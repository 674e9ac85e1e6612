-- Enter a replica into the registry. ARGV: replica, lease_ms, facts (JSON), slots
local id, lease_ms, facts, slots = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
redis.call('HSET', replica_key(id), 'facts', facts, 'slots', slots, 'state', 'live',
  'pending_tokens', 0, 'reserved_kv_bytes', 0)
redis.call('ZADD', REPLICAS, now_ms() + lease_ms, id)
return 'ok'
