-- Make attempts stale and tell the replicas to stop working on them; the replica's own terminal write gives the
-- credit back. ARGV: jobs
for _, job in ipairs(ARGV) do
  local request, hop, attempt = split(job)
  local holder = redis.call('HGET', request_key(request), hop)
  if holder then
    local number, replica = string.match(holder, '^(%d+)|(.*)$')
    if number == attempt then
      redis.call('HDEL', request_key(request), hop)
      tell(replica, 'cancel ' .. job)
    end
  end
end
return 'ok'
