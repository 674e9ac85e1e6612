-- Renew a gateway's lease and store what it reports. A gateway that was fenced must not go on.
-- ARGV: gateway, lease_ms, report (JSON), first ('1' or '')
local id = ARGV[1]
if ARGV[4] ~= '1' and not redis.call('ZSCORE', GATEWAYS, id) then return 'fenced' end
redis.call('ZADD', GATEWAYS, now_ms() + ARGV[2], id)
redis.call('HSET', gateway_key(id), 'report', ARGV[3])
return 'ok'
