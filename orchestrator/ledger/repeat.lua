-- Queue the task of a dispatched attempt again, for when its message may have been lost with a connection.
-- ARGV: replica, job, queue, task message. Returns 'stale' if the ledger does not know the attempt as running.
local id, job, queue, message = unpack(ARGV)
if not current(job, id) then return 'stale' end
redis.call('LPUSH', queue, message)
return 'ok'
