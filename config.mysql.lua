-- The node of config.lua on MariaDB (or MySQL) and Redis: `perilune config.mysql.lua`. The database
-- has to be there and empty, or one that this made; its tables are made at the first start:
--
--   CREATE DATABASE perilune CHARACTER SET utf8mb4;
--   CREATE USER perilune IDENTIFIED BY 'secret';
--   GRANT ALL ON perilune.* TO perilune;
--
--   DATABASE_URL=mysql://perilune:secret@127.0.0.1:3306/perilune perilune config.mysql.lua

-- luacheck: read globals env include
local config = include "config.lua"

for _, service in ipairs(config.services) do
  if service.script == "dbproxy" then
    -- Where there are several, the next takes the place of one that doesn't answer: { url, url }.
    service.options.database = env("DATABASE_URL", "mysql://perilune@127.0.0.1:3306/perilune")
    service.options.replicas = {}
    service.options.cache = env("REDIS_URL", "redis://127.0.0.1:6379/0")
  end
end

return config
