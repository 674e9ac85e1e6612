-- Make attempts stale and tell the replicas to stop working on them; the replica's own terminal write gives the
-- credit back. ARGV: jobs
for _, job in ipairs(ARGV) do
  local _, _, attempt = split(job)
  local known, replica = holder_of(job)
  if known == tonumber(attempt) and replica ~= '' then
    finish(job)
    tell(replica, 'cancel ' .. job)
  end
end
return 'ok'
