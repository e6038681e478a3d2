-- perilune examples/leaderboard/config.lua

-- luacheck: read globals env
return {
  paths = { "." },
  services = {
    { script = "leaderboard", options = { port = 8080, redis = env("REDIS_URL", "") } },
  },
}
