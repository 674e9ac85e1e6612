-- Queue the task of a dispatched attempt again, for when its message may have been lost with a connection.
-- ARGV: replica, job, queue, task message
local id, job, queue, message = unpack(ARGV)
if current(job, id) then redis.call('LPUSH', queue, message) end
return 'ok'
