-- perilune examples/inventory/config.lua

-- luacheck: read globals env
return {
  paths = { "." },
  services = {
    { script = "dbproxy", options = {
      -- DATABASE_URL=mysql://root@127.0.0.1:3306/game for MariaDB
      database = env("DATABASE_URL", "sqlite:inventory.db"),
      tables = { "tables", "inventory_tables" },
    } },
    { script = "auth" },
    { script = "inventory", options = { coins = 100 } },
    { script = "gateway", options = { listen = { { port = 6080 } } } },
  },
}
