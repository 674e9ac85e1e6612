-- Take a replica out for good: tell the gateways which jobs it lost, make its later writes stale and remove
-- its registry entry and its queue. Fencing twice changes nothing.
-- Returns the number of jobs, -1 if the lease has not lapsed after all.
-- ARGV: replica, payload for each lost job, only_if_lapsed ('1' or ''), then the queues that it may have
local id, payload = ARGV[1], ARGV[2]
if ARGV[3] == '1' and leased(REPLICAS, id, now_ms()) then return -1 end
local lost = 0
for _, job in ipairs(redis.call('HKEYS', credits_key(id))) do
  local gateway = release(id, job)
  if current(job, id) then
    finish(job)
    if redis.call('EXISTS', gateway_key(gateway)) == 1 then
      redis.call('XADD', replies_key(gateway), '*', job, payload)
    end
    lost = lost + 1
  end
end
redis.call('ZREM', REPLICAS, id)
redis.call('DEL', replica_key(id), credits_key(id), control_key(id), alone_key(id))
for i = 4, #ARGV do redis.call('DEL', ARGV[i]) end
return lost
