-- Which servers can be reached: their names are looked up, and each address gets a connection, with
-- a limit of time for both. What changes is logged; GET / tells how it is.
local dns = require "perilune.dns"
local http = require "perilune.http"
local options = require "perilune.options"
local perilune = require "perilune"
local socket = require "perilune.socket"

local reach = {} -- the commands that other services may call
local settings, server
local states = {} -- what was logged last, by target and address; kept over a reload
local report = {} -- by target, as of the last round

reach.options = {
  port = { type = "integer", default = 8083, min = 0, max = 65535, meaning = "TCP port" },
  targets = { type = "table", required = true, meaning = "servers, a table each", items = {
    host = { type = "string", required = true, meaning = "a name or an address" },
    port = { type = "integer", required = true, min = 1, max = 65535, meaning = "TCP port" },
    tls = { type = "any", meaning = "true, or options of perilune.socket's tls" },
  } },
  limit_ms = { type = "integer", default = 3000, min = 1, unit = "ms",
    meaning = "for a name, and then for a connection" },
  every_ms = { type = "integer", default = 10000, min = 2, unit = "ms",
    meaning = "from one round to the next" },
}

function reach.on_start(given)
  settings = options.read(reach.options, given)
  -- A round takes twice the limit at most, since its targets don't wait for each other.
  if settings.every_ms < 2 * settings.limit_ms then
    error("option every_ms has to be twice limit_ms at least", 0)
  end
  server = assert(http.listen { port = settings.port, routes = { ["GET /"] = "on_report" } })
  perilune.log.info("http://%s:%d/", server.host, server.port)
  perilune.timeout(0, "round")
  perilune.every(settings.every_ms, "round")
end

-- The certificate has to be that of the name, whatever the address.
local function tls_of(target)
  if not target.tls then return nil end
  local tls = { server_name = target.host }
  if type(target.tls) == "table" then
    for name, value in pairs(target.tls) do tls[name] = value end
  end
  return tls
end

---@async
local function try(target, address)
  local began = perilune.now()
  local connection, message, code = socket.connect(address, target.port,
    { connect_ms = settings.limit_ms, tls = tls_of(target) })
  if not connection then return { address = address, message = message, code = code } end
  connection:close()
  return { address = address, ms = math.ceil(perilune.now() - began) }
end

---Looks at one server: its name, then all its addresses at the same time.
---@async
---@param target { host: string, port: integer, tls: boolean|perilune.socket.TlsOptions|nil }
---@return table found addresses, a list of { address, ms } or { address, message, code }; or
---message and code, when the name has none
function reach.check(target)
  local addresses, message, code = dns.resolve(target.host, settings.limit_ms)
  if not addresses then return { message = message, code = code } end
  local tries = {}
  for index, address in ipairs(addresses) do
    tries[index] = function() return try(target, address) end
  end
  for index, result in ipairs(perilune.wait_all(tries)) do
    if not result[1] then error(result[2], 0) end
    tries[index] = result[2]
  end
  return { addresses = tries }
end

local function note(key, text)
  if states[key] == text then return end
  states[key] = text
  perilune.log.info("%s", text)
end

local function note_all(place, found)
  if not found.addresses then return note(place, found.message) end
  for _, one in ipairs(found.addresses) do
    note(place .. " " .. one.address,
      ("%s at %s"):format(place, one.message or one.address .. ": up"))
  end
end

-- A timer's, and a command: returns when all targets have been looked at.
function reach.round()
  local looks = {}
  for index, target in ipairs(settings.targets) do
    looks[index] = function()
      local place = ("%s:%d"):format(target.host, target.port)
      report[place] = reach.check(target)
      note_all(place, report[place])
    end
  end
  perilune.wait_all(looks)
  return report
end

function reach.on_report() return report end

function reach.port() return server.port end

return reach
