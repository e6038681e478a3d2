---@class perilune.http.routes
-- Which function handles a request: routes are a tree of the segments of their paths. A literal
-- segment comes before a parameter, that before the rest ("*").
local routes = {}

local callback = require "perilune.callback"
local url = require "perilune.http.url"

---@class perilune.http.Route
---@field handler perilune.Callback (request, response)
---@field max_body integer? of its requests, in bytes
---@field handler_ms integer? how long it may take

---@class perilune.http.Tree
---@field private _root table
local Tree = {}
Tree.__index = Tree

local METHODS = {
  GET = true, HEAD = true, POST = true, PUT = true, DELETE = true, PATCH = true, OPTIONS = true,
  PROPFIND = true, REPORT = true, SEARCH = true, PURGE = true,
}
local ANY = "*"

-- The segments of an encoded path, decoded: "/a/b%20c" -> {"a", "b c"}. nil for what can't be.
local function split_path(path)
  if path:sub(1, 1) ~= "/" then return nil end
  local segments = {}
  for raw in path:gmatch "/([^/]*)" do
    local segment = url.decode(raw)
    if not segment or segment:find("\0", 1, true) then return nil end
    segments[#segments + 1] = segment
  end
  return segments
end

local function read_key(key)
  if type(key) ~= "string" then
    error(("a route is called \"GET /path\", not %s"):format(tostring(key)), 0)
  end
  local method, path = key:match "^(%u+) +(/.*)$"
  if not method then path = key:match "^(/.*)$" end
  if not path or (method and not METHODS[method]) then
    error(("route %q: a method and a path expected, such as \"GET /users/:id\""):format(key), 0)
  end
  return method or ANY, path
end

local function read_route(key, value)
  local route = type(value) == "table" and value or { handler = value }
  if not callback.is(route.handler) then
    error(("route %q: a function, or the name of one, expected as its handler"):format(key), 0)
  end
  return route
end

-- The node of the tree that a path of a route leads to, and the names of its parameters.
local function grow(root, key, path)
  local node, names = root, {}
  local segments = split_path(path)
  for index, segment in ipairs(segments or {}) do
    local mark, name = segment:match "^([:*])(.*)$"
    if mark == "*" then
      if index ~= #segments then error(("route %q: \"*\" has to be its end"):format(key), 0) end
      node.rest = node.rest or { literals = {} }
      node, names[#names + 1] = node.rest, name ~= "" and name or "rest"
    elseif mark == ":" then
      node.parameter = node.parameter or { literals = {} }
      node, names[#names + 1] = node.parameter, name
    else
      node.literals[segment] = node.literals[segment] or { literals = {} }
      node = node.literals[segment]
    end
  end
  return node, names
end

---Adds a route. Raises when it can't be one, or is there already.
---@param key string "GET /users/:id", "GET /files/*path", or "/path" for all methods
---@param value perilune.http.Route|perilune.Callback
function Tree:add(key, value)
  local method, path = read_key(key)
  local node, names = grow(self._root, key, path)
  node.methods = node.methods or {}
  if node.methods[method] then error(("route %q is there twice"):format(key), 0) end
  node.methods[method] = { route = read_route(key, value), names = names }
end

-- Depth first; `values` are those of the parameters on the way.
local function find(node, segments, index, values)
  if index > #segments then return node.methods and node end
  local literal = node.literals[segments[index]]
  local found = literal and find(literal, segments, index + 1, values)
  if found then return found end
  if node.parameter and segments[index] ~= "" then
    values[#values + 1] = segments[index]
    found = find(node.parameter, segments, index + 1, values)
    if found then return found end
    values[#values] = nil
  end
  if not node.rest then return nil end
  values[#values + 1] = table.concat(segments, "/", index)
  return node.rest
end

-- The methods that a node has, for the header Allow.
local function list_methods(methods)
  local list = { "OPTIONS" }
  for method in pairs(methods) do
    if method ~= "OPTIONS" then list[#list + 1] = method end
  end
  if methods.GET and not methods.HEAD then list[#list + 1] = "HEAD" end
  table.sort(list)
  return table.concat(list, ", ")
end

---Finds what handles a request.
---@param method string
---@param path string encoded
---@return perilune.http.Route? route
---@return table<string, string>|"invalid"|"not_found"|"not_allowed" parameters or why there is none
---@return string? allow for "not_allowed"
function Tree:find(method, path)
  local segments = split_path(path)
  if not segments then return nil, "invalid" end
  local values = {}
  local node = find(self._root, segments, 1, values)
  if not node then return nil, "not_found" end
  local methods = node.methods
  local entry = methods[method] or (method == "HEAD" and methods.GET) or methods[ANY]
  if not entry then return nil, "not_allowed", list_methods(methods) end
  local parameters = {}
  for index, name in ipairs(entry.names) do parameters[name] = values[index] end
  return entry.route, parameters
end

---A tree of routes. Raises for what can't be one.
---@param given table<string, perilune.http.Route|perilune.Callback>?
---@return perilune.http.Tree
function routes.new(given)
  local tree = setmetatable({ _root = { literals = {} } }, Tree)
  for key, value in pairs(given or {}) do tree:add(key, value) end
  return tree
end

return routes
