-- Reserve a slot on a replica for one attempt, make that attempt the current one and queue its task. Running it
-- again with the same arguments changes nothing, so a caller whose connection broke simply asks again.
-- ARGV: replica, job, gateway, tokens, kv_bytes, alone ('1' or ''), ttl_ms, queue, task message
local id, job, gateway, tokens, kv_bytes, alone, ttl_ms, queue, message = unpack(ARGV)
local replica = replica_key(id)
if not leased(REPLICAS, id, now_ms()) then return 'gone' end
local facts = redis.call('HMGET', replica, 'state', 'slots', 'kv_bytes', 'reserved_kv_bytes')
local state, slots, total_kv, reserved_kv = facts[1], tonumber(facts[2]), tonumber(facts[3]), tonumber(facts[4])
if state ~= 'live' then return 'draining' end
if redis.call('HEXISTS', credits_key(id), job) == 1 then return 'ok' end
local request, hop, attempt = split(job)
local known, by = holder_of(job)
-- The first try got through and its answer was lost; the attempt has even ended since, or was followed by another.
if known and (known > tonumber(attempt) or (known == tonumber(attempt) and by == '')) then return 'ok' end

local in_flight = redis.call('HLEN', credits_key(id))
local holder = redis.call('GET', alone_key(id))
if holder and holder ~= job then return 'full' end
if alone == '1' then
  -- Nobody else enters while the rest finishes; the mark lapses unless its owner keeps asking.
  redis.call('SET', alone_key(id), job, 'PX', in_flight > 0 and 2000 or ttl_ms)
  if in_flight > 0 then return 'full' end
elseif in_flight >= slots then
  return 'full'
end
-- What could never fit goes to an idle replica, whose engine refuses it by name.
if total_kv > 0 and in_flight > 0 and reserved_kv + tonumber(kv_bytes) > total_kv then return 'full' end

redis.call('HSET', credits_key(id), job, tokens .. '|' .. kv_bytes .. '|' .. gateway)
redis.call('HINCRBY', replica, 'pending_tokens', tokens)
redis.call('HINCRBY', replica, 'reserved_kv_bytes', kv_bytes)
redis.call('HSET', request_key(request), hop, attempt .. '|' .. id)
redis.call('PEXPIRE', request_key(request), ttl_ms)
redis.call('SADD', requests_key(gateway), request)
redis.call('LPUSH', queue, message)
return 'ok'
