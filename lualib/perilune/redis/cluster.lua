---@class perilune.redis.cluster
-- A cluster: a shared connection to each primary, and which slots it has. The map is learned from
-- any node and again when a node says that a slot has moved, or when one is lost. A request that
-- was not done, since it came to the wrong node, goes to the right one.
local cluster = {}

local channels = require "perilune.redis.channel"
local commands = require "perilune.redis.commands"
local core = require "perilune.core"
local links = require "perilune.redis.link"
local native = require "perilune.native.redis"
local perilune = require "perilune"
local pools = require "perilune.redis.pool"

local now, fork = core.native "now", core.native "fork"
local new_token, wait, wake =
  core.native "core_token", core.native "core_wait", core.native "core_wake"

local MAX_REDIRECTS = 16
local AGAIN_MS = 100        -- before a node is asked again that can't answer yet
local REFRESH_MS = 500      -- between two looks at a map that isn't complete
local MAX_NODES = 1000

-- The server has done nothing, and will be able to later.
local LATER = { TRYAGAIN = true, CLUSTERDOWN = true, LOADING = true, MASTERDOWN = true }

---@class perilune.redis.Node
---@field host string
---@field port integer
---@field address string
---@field channel perilune.redis.Channel

---@class perilune.redis.Cluster
---@field has_slots true
local Cluster = { has_slots = true }
Cluster.__index = Cluster

-- The map ----------------------------------------------------------------------------------------

local function address_of(host, port)
  return (host:find(":", 1, true) and "[%s]:%d" or "%s:%d"):format(host, port)
end

local refresh_soon

local function count_nodes(self)
  local count = 0
  for _ in pairs(self._nodes) do count = count + 1 end
  return count
end

-- The node of an address, to which a connection is made; nil when there are too many.
local function node_at(self, host, port)
  local address = address_of(host, port)
  local node = self._nodes[address]
  if node then return node end
  if count_nodes(self) >= MAX_NODES then return nil end
  local function dial(limit_ms) return links.open(host, port, self._settings, limit_ms) end
  node = { host = host, port = port, address = address, pool = pools.new(dial, self._settings) }
  node.channel = channels.new(dial, self._settings, address)
  node.channel.on_lost = function() refresh_soon(self) end
  self._nodes[address] = node
  return node
end

-- It has no slots any more. What is under way there gets its reply.
local function retire(self, node)
  self._nodes[node.address] = nil
  node.channel:send_away(node.address .. ": it has no slots any more", "unavailable")
  node.pool:close()
  fork(function()
    local limit = now() + self._settings.timeout_ms
    while node.channel:pending() > 0 and node.channel.link and now() < limit do
      perilune.sleep(AGAIN_MS)
    end
    node.channel:close()
  end)
end

-- Ranges {first, last, host, port} of a reply to CLUSTER SLOTS, in their order; nil when it is no
-- such reply.
local function read_slots(reply, asked_host)
  if type(reply) ~= "table" or #reply > native.slots then return nil end
  local ranges = {}
  for _, entry in ipairs(reply) do
    if type(entry) ~= "table" or type(entry[3]) ~= "table" then return nil end
    local first, last, host, port = entry[1], entry[2], entry[3][1], entry[3][2]
    if type(first) ~= "number" or type(last) ~= "number" then return nil end
    -- A node that doesn't know its own address is where it was asked.
    if host == native.null or host == "" or host == "?" then host = asked_host end
    if type(host) ~= "string" or type(port) ~= "number" then return nil end
    ranges[#ranges + 1] = { first, last, host, port }
  end
  table.sort(ranges, function(a, b) return a[1] < b[1] end)
  return ranges
end

local function use_map(self, ranges)
  local used = {}
  for _, range in ipairs(ranges) do
    range.node = node_at(self, range[3], range[4])
    if range.node then used[range.node.address] = range.node end
  end
  self._ranges = ranges
  for address, node in pairs(self._nodes) do
    if not used[address] then retire(self, node) end
  end
end

-- Those who may know the map: connected nodes, the others, and those of the URL.
local function those_who_know(self)
  local places, later = {}, {}
  for _, node in pairs(self._nodes) do
    local place = { node.host, node.port, node.channel.link }
    table.insert(place[3] and places or later, place)
  end
  for _, place in ipairs(later) do places[#places + 1] = place end
  for _, host in ipairs(self._hosts) do places[#places + 1] = { host[1], host[2] } end
  return places
end

---@async
local function ask_for_map(self, place, limit_ms)
  local host, port, link = unpack(place, 1, 3)
  local message, code
  local is_own = not link or link.closed
  if is_own then
    link, message, code = links.open(host, port, self._settings, limit_ms)
    if not link then return nil, message, code end
  end
  local reply
  reply, message, code = link:request(limit_ms, "CLUSTER", "SLOTS")
  if is_own then link:close() end
  local ranges = read_slots(reply, host)
  if ranges and ranges[1] then return ranges end
  if not code then message, code = link.address .. ": it knows of no slots", "CLUSTERDOWN" end
  return nil, message, code == "unknown" and "unavailable" or code
end

-- Learns the map from whoever answers first.
---@async
local function refresh(self, limit_ms)
  local deadline = now() + limit_ms
  local message, code = "redis: no node of the cluster answers", "unavailable"
  for _, place in ipairs(those_who_know(self)) do
    local left = deadline - now()
    if left <= 0 or self.closed then break end
    local ranges, why, kind = ask_for_map(self, place, math.max(1, left / 2))
    if ranges and not self.closed then
      use_map(self, ranges)
      self._settings.counters.maps = self._settings.counters.maps + 1
      return true
    end
    message, code = why or message, kind or code
  end
  return nil, message, code
end

local function is_whole(self)
  for _, node in pairs(self._nodes) do
    if not node.channel.link then return false end
  end
  return next(self._nodes) ~= nil
end

-- One look at a time, and again for as long as a node is missing: those who wait for it hear of it.
function refresh_soon(self)
  if self._is_refreshing or self.closed then return end
  self._is_refreshing = true
  fork(function()
    repeat
      refresh(self, self._settings.connect_ms)
      for _, node in pairs(self._nodes) do
        if not node.channel.link then
          node.channel:send_away(node.address .. ": no connection", "unavailable")
        end
      end
      self._pause = new_token()
      wait(self._pause, REFRESH_MS)
      self._pause = nil
    until self.closed or is_whole(self)
    self._is_refreshing = false
  end)
end

-- Whose slot it is, by halves.
local function node_of(self, slot)
  local ranges = self._ranges
  local low, high = 1, #ranges
  while low <= high do
    local middle = math.floor((low + high) / 2)
    local range = ranges[middle]
    if slot < range[1] then
      high = middle - 1
    elseif slot > range[2] then
      low = middle + 1
    else
      return range.node
    end
  end
end

-- Any node, for what has no keys: one that is connected, if there is one.
local function any_node(self)
  local first
  for _, node in pairs(self._nodes) do
    if node.channel.link then return node end
    first = first or node
  end
  return first
end

-- "MOVED 3999 127.0.0.1:6381": the node. Without a host it is another port of the one that said so.
local function node_of_message(self, message, from)
  local address = message:match "^%u+ %d+ (%S+)"
  local host, port = (address or ""):match "^(.*):(%d+)$"
  port = tonumber(port)
  if not port or port < 1 or port > 65535 then return nil end
  if host == "" or host == "?" then host = from and from.host or self._hosts[1][1] end
  return node_at(self, host, port)
end

-- Requests ---------------------------------------------------------------------------------------

-- ASKING and the command, as one, to a node that is taking the slot over.
---@async
local function request_asking(self, node, limit_ms, bytes)
  local link, message, code = node.channel:connected(limit_ms)
  if not link then return nil, message, code end
  local batch, why, kind = link:send_batch(limit_ms, { self._asking, bytes })
  if not batch then return nil, why, kind end
  local reply = batch:wait()[2]
  if getmetatable(reply) == "perilune.redis.Error" then return nil, reply.message, reply.code end
  if reply == native.null then return nil end
  return reply
end

-- What an error says of where the request is to go next: a node, and whether it is to be asked
-- specially. nil: the error is the answer.
---@async
local function next_place(self, code, message, node, slot, left_ms)
  if code == "MOVED" or code == "ASK" then
    self._settings.counters.redirected = self._settings.counters.redirected + 1
    if code == "MOVED" then refresh_soon(self) end
    return node_of_message(self, message, node), code == "ASK"
  elseif self.closed or left_ms <= 0 then
    return nil
  elseif LATER[code] or code == "unavailable" or code == "closed" then
    refresh_soon(self)
    perilune.sleep(math.min(AGAIN_MS, math.ceil(left_ms)))
    return slot and node_of(self, slot) or any_node(self) or node
  end
end

-- Sends a request, by send(node, left_ms), to one node after the other until it is done; bytes_of()
-- are the command's.
---@async
local function request_at(self, slot, limit_ms, send, bytes_of)
  local deadline = now() + limit_ms
  local node = slot and node_of(self, slot) or any_node(self)
  local is_asking, message, code = false, "redis: no node has this slot", "CLUSTERDOWN"
  local redirects = 0
  while redirects <= MAX_REDIRECTS do
    local value
    local left = math.max(1, deadline - now())
    if node and is_asking then
      value, message, code = request_asking(self, node, left, bytes_of())
    elseif node then
      value, message, code = send(node, left)
    end
    if not code then return value end
    node, is_asking = next_place(self, code, message, node, slot, deadline - now())
    if not node then return nil, message, code end
    if not LATER[code] and code:find "^%u" then redirects = redirects + 1 end
  end
  return nil, message, code
end

---Gives a command to the node that has its keys, and waits for the reply.
---@async
---@param limit_ms number
---@param name string
---@param ... any
---@return any reply
---@return string? message
---@return string? code
function Cluster:request(limit_ms, name, ...)
  local list = commands.list(...)
  local slot, problem, code = commands.slot(name, list)
  if code then return nil, problem, code end
  return request_at(self, slot, limit_ms, function(node, left_ms)
    return node.channel:request(left_ms, name, list)
  end, function() return assert(native.format(name, list)) end)
end

-- A command that is bytes already.
---@async
local function request_bytes(self, slot, limit_ms, bytes)
  return request_at(self, slot, limit_ms, function(node, left_ms)
    local link, message, code = node.channel:connected(left_ms)
    if not link then return nil, message, code end
    local batch, why, kind = link:send_batch(left_ms, { bytes })
    if not batch then return nil, why, kind end
    local reply = batch:wait()[1]
    if getmetatable(reply) == "perilune.redis.Error" then return nil, reply.message, reply.code end
    if reply == native.null then return nil end
    return reply
  end, function() return bytes end)
end

-- What was sent to each node: {batch, indexes}. Commands whose node isn't connected aren't sent.
local function send_parts(self, limit_ms, list, slots, indexes)
  local parts, by_node = {}, {}
  for _, index in ipairs(indexes) do
    local node = slots[index] and node_of(self, slots[index]) or any_node(self)
    local part = node and by_node[node]
    if node and not part then
      part = { node = node, bytes = {}, indexes = {} }
      parts[#parts + 1], by_node[node] = part, part
    end
    if part then
      table.insert(part.bytes, list[index])
      table.insert(part.indexes, index)
    end
  end
  for _, part in ipairs(parts) do
    local link = part.node.channel.link
    if link then part.batch, part.why, part.kind = link:send_batch(limit_ms, part.bytes) end
  end
  return parts
end

-- What became of a command that was sent on, for a list of results.
---@async
local function follow_one(self, slot, limit_ms, bytes)
  local value, message, code = request_bytes(self, slot, limit_ms, bytes)
  if code then return native.error(code, message) end
  if value == nil then return native.null end
  return value
end

-- Puts the answers of a part where they belong. Those that are to be tried again stay open.
---@async
local function take_answers(self, part, results, deadline, slots)
  if part.kind == "busy" then
    for _, index in ipairs(part.indexes) do results[index] = native.error("busy", part.why) end
  end
  local answers = part.batch and part.batch:wait() or {}
  for place, index in ipairs(part.indexes) do
    local answer = answers[place]
    local code = getmetatable(answer) == "perilune.redis.Error" and answer.code
    if code == "ASK" then
      answer = follow_one(self, slots[index], math.max(1, deadline - now()), part.bytes[place])
    elseif code == "MOVED" then
      next_place(self, code, answer.message, part.node, slots[index], 0)
    end
    if answer ~= nil and code ~= "MOVED" and not LATER[code] then results[index] = answer end
    part.problem = code and answer or part.problem
  end
end

---Sends commands, those of one node together, and waits for all replies. Those that weren't done
---are sent again, to where they belong by then.
---@async
---@param limit_ms number
---@param list string[] commands as bytes
---@param slots table<integer, integer> their slots
---@return any[] results
function Cluster:batch(limit_ms, list, slots)
  local deadline, results, open = now() + limit_ms, {}, {}
  local problem = native.error("unavailable", "redis: no connection to its node in time")
  for index = 1, #list do open[index] = index end
  while true do
    for _, part in ipairs(send_parts(self, math.max(1, deadline - now()), list, slots, open)) do
      take_answers(self, part, results, deadline, slots)
      problem = part.problem or problem
    end
    local left = {}
    for _, index in ipairs(open) do
      if results[index] == nil then left[#left + 1] = index end
    end
    open = left
    if not open[1] then return results end
    if self.closed or now() >= deadline then break end
    refresh_soon(self)
    perilune.sleep(AGAIN_MS)
  end
  for _, index in ipairs(open) do results[index] = problem end
  return results
end

---A connection of one's own to the node of a slot, and the pool to give it back to.
---@async
---@param limit_ms number
---@param slot integer? nil: any node
---@return perilune.redis.Link? link
---@return perilune.redis.Pool|string pool or message
---@return string? code
function Cluster:own(limit_ms, slot)
  local deadline = now() + limit_ms
  while true do
    local node = slot and node_of(self, slot) or any_node(self)
    local message, code = "redis: no node has this slot", "CLUSTERDOWN"
    if node then
      local link
      link, message, code = node.pool:take(math.max(1, deadline - now()))
      if link then return link, node.pool end
    end
    if code == "busy" or self.closed or now() >= deadline then return nil, message, code end
    refresh_soon(self)
    perilune.sleep(AGAIN_MS)
  end
end

---Whether an error says that another server has the keys.
---@param code string
---@return boolean
function Cluster:is_redirection(code)
  return code == "MOVED" or code == "ASK" or LATER[code] == true
end

---The same, and by now it is known which one that is.
---@async
---@param code string
---@param message string
---@return boolean
function Cluster:follows(code, message)
  if not self:is_redirection(code) then return false end
  if code == "MOVED" then refresh(self, self._settings.connect_ms) end
  perilune.sleep(AGAIN_MS)
  return true
end

---Calls a function for each primary.
---@async
---@param visit fun(request: (async fun(name: string, ...: any): any), address: string)
---@param limit_ms number
function Cluster:each(visit, limit_ms)
  local nodes = {}
  for _, node in pairs(self._nodes) do nodes[#nodes + 1] = node end
  table.sort(nodes, function(a, b) return a.address < b.address end)
  for _, node in ipairs(nodes) do
    visit(function(...) return node.channel:request(limit_ms, ...) end, node.address)
  end
end

---How many requests wait for a reply or for a connection, and how many servers are connected.
---@return integer pending
---@return integer connected
function Cluster:state()
  local pending, connected = 0, 0
  for _, node in pairs(self._nodes) do
    pending = pending + node.channel:pending()
    if node.channel.link then connected = connected + 1 end
  end
  return pending, connected
end

---Closes all connections.
function Cluster:close()
  self.closed = true
  if self._pause then wake(self._pause) end
  for _, node in pairs(self._nodes) do
    node.channel:close()
    node.pool:close()
  end
  self._nodes = {}
end

---Learns the map, unless that is to be done later.
---@async
---@param place perilune.redis.Place
---@param settings perilune.redis.Settings
---@return perilune.redis.Cluster? router
---@return string? message
---@return string? code
function cluster.new(place, settings)
  local self = setmetatable({
    _hosts = place.hosts, _settings = settings, _nodes = {}, _ranges = {},
    _asking = assert(native.format "ASKING"),
  }, Cluster)
  -- Any node will do for subscriptions: messages go to all of them.
  self.dial = function(limit_ms)
    local node = any_node(self)
    local host = node and { node.host, node.port } or self._hosts[math.random(#self._hosts)]
    return links.open(host[1], host[2], settings, limit_ms)
  end
  if settings.lazy then
    refresh_soon(self)
    return self
  end
  local ok, message, code = refresh(self, settings.connect_ms)
  if ok then return self end
  self:close()
  return nil, message, code
end

return cluster
