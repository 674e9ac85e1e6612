-- Enter a replica into the registry. ARGV: replica, lease_ms, facts (JSON), slots, kv_bytes
local id, lease_ms, facts, slots, kv_bytes = unpack(ARGV)
redis.call('HSET', replica_key(id), 'facts', facts, 'slots', slots, 'state', 'live',
  'kv_bytes', kv_bytes, 'pending_tokens', 0, 'reserved_kv_bytes', 0)
redis.call('ZADD', REPLICAS, now_ms() + lease_ms, id)
return 'ok'
