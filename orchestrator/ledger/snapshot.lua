-- One consistent view of the registry. Returns {replicas, gateways, lapsed replicas, lapsed gateways, used bytes,
-- allowed bytes}:
-- replicas as {id, facts, load, state, slots, in_flight, pending_tokens, reserved_kv_bytes, alone},
-- gateways as {id, report}, allowed bytes 0 if there is no bound.
local now = now_ms()
local out = {{}, {}, {}, {}}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', REPLICAS, '(' .. now, '+inf')) do
  local f = redis.call('HMGET', replica_key(id), 'facts', 'load', 'state', 'slots', 'pending_tokens',
    'reserved_kv_bytes')
  out[1][#out[1] + 1] = {id, f[1] or '{}', f[2] or '{}', f[3] or 'live', f[4] or '0',
    redis.call('HLEN', credits_key(id)), f[5] or '0', f[6] or '0',
    redis.call('GET', alone_key(id)) or ''}
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', GATEWAYS, '(' .. now, '+inf')) do
  out[2][#out[2] + 1] = {id, redis.call('HGET', gateway_key(id), 'report') or '{}'}
end
out[3] = redis.call('ZRANGEBYSCORE', REPLICAS, '-inf', now)
out[4] = redis.call('ZRANGEBYSCORE', GATEWAYS, '-inf', now)
local memory = redis.call('INFO', 'memory')
out[5] = tonumber(string.match(memory, 'used_memory:(%d+)'))
out[6] = tonumber(string.match(memory, 'maxmemory:(%d+)'))
return out
