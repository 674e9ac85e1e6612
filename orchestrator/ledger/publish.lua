-- Make an edition of a policy the published one, unless a newer one is.
-- ARGV: service, era, revision, files (JSON)
local key = policy_key(ARGV[1])
local era, revision = tonumber(ARGV[2]), tonumber(ARGV[3])
local held = redis.call('HMGET', key, 'era', 'revision')
local held_era, held_revision = tonumber(held[1] or '-1'), tonumber(held[2] or '-1')
if era < held_era or (era == held_era and revision < held_revision) then return 'older' end
if era == held_era and revision == held_revision then return 'same' end
redis.call('HSET', key, 'era', ARGV[2], 'revision', ARGV[3], 'files', ARGV[4])
return 'taken'
