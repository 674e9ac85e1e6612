-- Append what a replica produced to the reply streams, dropping what a newer attempt has overtaken.
-- ARGV: replica, then for each event: job, reply stream, payload, terminal ('1' or '')
-- Returns the jobs whose attempt is stale, marked with '!' if nobody serves their request any more. Events of one
-- reply stream share one stream entry.
local id = ARGV[1]
local fields, stale = {}, {}
for i = 2, #ARGV, 4 do
  local job, reply_to, payload, terminal = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  if current(job, id) then
    local entry = fields[reply_to] or {}
    fields[reply_to] = entry
    entry[#entry + 1] = job .. '#' .. i    -- field names of an entry must differ
    entry[#entry + 1] = payload
    if terminal == '1' then finish(job) end
  else
    local served = redis.call('EXISTS', request_key((split(job)))) == 1
    stale[#stale + 1] = (served and '' or '!') .. job
  end
  if terminal == '1' then release(id, job) end
end
for reply_to, entry in pairs(fields) do
  redis.call('XADD', replies_key(reply_to), '*', unpack(entry))
end
return stale
