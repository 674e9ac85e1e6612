-- Forget requests that have ended, cancelling whatever still runs for them. ARGV: gateway, requests
for i = 2, #ARGV do
  forget(ARGV[i])
  redis.call('SREM', requests_key(ARGV[1]), ARGV[i])
end
return 'ok'
