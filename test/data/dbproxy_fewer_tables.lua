-- The tables of dbproxy_tables.lua as they are later, when one of them has gone.
local tables = require "dbproxy_tables"

return { tables = { hero = tables.tables.hero } }
