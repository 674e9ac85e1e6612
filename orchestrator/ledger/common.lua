-- Names and helpers that every ledger script starts with. ARGV and KEYS belong to the script itself.
-- Keys are built here rather than passed in: one shard is one Redis, never a cluster.
local REPLICAS, GATEWAYS = 'tercet:replicas', 'tercet:gateways'
local function replica_key(id) return 'tercet:replica:' .. id end
local function credits_key(id) return 'tercet:credits:' .. id end
local function control_key(id) return 'tercet:control:' .. id end
local function alone_key(id) return 'tercet:alone:' .. id end
local function request_key(id) return 'tercet:request:' .. id end
local function gateway_key(id) return 'tercet:gateway:' .. id end
local function requests_key(gateway) return 'tercet:requests:' .. gateway end
local function replies_key(gateway) return 'tercet:replies:' .. gateway end
local function policy_key(service) return 'tercet:policy:' .. service end

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- A job key is request|hop|attempt.
local function split(job)
  return string.match(job, '^(.-)|(.-)|(%d+)$')
end

local function leased(set, member, now)
  local expiry = redis.call('ZSCORE', set, member)
  return expiry and tonumber(expiry) > now
end

-- Give back what a job holds on a replica. A credit is <tokens>|<kv bytes>|<gateway>.
local function release(replica, job)
  local credit = redis.call('HGET', credits_key(replica), job)
  if not credit then return nil end
  local tokens, kv_bytes, gateway = string.match(credit, '^(%d+)|(%d+)|(.*)$')
  redis.call('HDEL', credits_key(replica), job)
  -- 0 - x, since HINCRBY does not take -0.
  redis.call('HINCRBY', replica_key(replica), 'pending_tokens', 0 - tokens)
  redis.call('HINCRBY', replica_key(replica), 'reserved_kv_bytes', 0 - kv_bytes)
  if redis.call('GET', alone_key(replica)) == job then redis.call('DEL', alone_key(replica)) end
  return gateway
end

-- A request's hash has `<attempt>|<replica>` for each hop, and `<attempt>|` once the attempt is over: its number
-- stays, so that a repeated dispatch of it is recognised.
local function holder_of(job)
  local request, hop = split(job)
  local value = redis.call('HGET', request_key(request), hop)
  if not value then return nil end
  local attempt, replica = string.match(value, '^(%d+)|(.*)$')
  return tonumber(attempt), replica
end

-- True while this attempt is the one whose output counts.
local function current(job, replica)
  local request, hop, attempt = split(job)
  return redis.call('HGET', request_key(request), hop) == attempt .. '|' .. replica
end

-- Nothing that this attempt writes counts any more.
local function finish(job)
  local request, hop, attempt = split(job)
  redis.call('HSET', request_key(request), hop, attempt .. '|')
end

-- Leave word for a replica; a fenced one has no ears, and a list nobody reads must not grow.
local function tell(replica, message)
  if redis.call('EXISTS', replica_key(replica)) == 1 then
    redis.call('RPUSH', control_key(replica), message)
  end
end

-- Forget a request and stop what still runs for it.
local function forget(request)
  local held = redis.call('HGETALL', request_key(request))
  for j = 1, #held, 2 do
    local attempt, replica = string.match(held[j + 1], '^(%d+)|(.*)$')
    if replica ~= '' then
      tell(replica, 'cancel ' .. request .. '|' .. held[j] .. '|' .. attempt)
    end
  end
  redis.call('DEL', request_key(request))
end
