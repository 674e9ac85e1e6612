-- Take a gateway out: cancel its requests in every stage and remove its streams.
-- ARGV: gateway, only_if_lapsed ('1' or ''). Returns the ids of its requests, nil if its lease has not lapsed.
local id = ARGV[1]
if ARGV[2] == '1' and leased(GATEWAYS, id, now_ms()) then return nil end
local requests = redis.call('SMEMBERS', requests_key(id))
for _, request in ipairs(requests) do forget(request) end
redis.call('ZREM', GATEWAYS, id)
redis.call('DEL', gateway_key(id), requests_key(id), replies_key(id))
return requests
