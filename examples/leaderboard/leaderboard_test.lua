local http = require "perilune.http"
local perilune = require "perilune"
local test = require "perilune.test"

-- A server of Redis on a port of its own, told what to do by lines: see there.
local LAUNCH = "test/data/servers/launch"

local function runs(command)
  local pipe = assert(io.popen(command))
  local text = pipe:read "*a"
  pipe:close()
  return text ~= ""
end

local has_redis = runs "command -v redis-check-rdb" and runs("ls " .. LAUNCH .. " 2>/dev/null")

local function start_redis()
  local folder = os.tmpname()
  os.remove(folder)
  local pipe = assert(io.popen(("%s redis %s"):format(LAUNCH, folder), "w"))
  local answers = 0
  local function expect()
    answers = answers + 1
    return test.eventually(function()
      local line
      local file = io.open(folder .. "/answers")
      for _ = 1, file and answers or 0 do line = file:read "*l" end
      if file then file:close() end
      return line
    end, 30000)
  end
  local port = assert(expect():match "^up (%d+)")
  local function tell(command)
    pipe:write(command, "\n")
    pipe:flush()
    if command ~= "end" then expect() end
  end
  return "redis://127.0.0.1:" .. port, tell
end

local SCORES = { { "ann", 120 }, { "bob", 80 }, { "ann", 90 }, { "cid", 120 }, { "dan", -5 } }
local TOP = {
  { player = "cid", score = 120 }, { player = "ann", score = 120 }, { player = "bob", score = 80 },
  { player = "dan", score = -5 },
}

local function with_board(url, body)
  local service = perilune.spawn("leaderboard", { port = 0, redis = url })
  local base = "http://127.0.0.1:" .. perilune.call(service, "port")
  local ok, problem = pcall(body, service, base)
  http.close_idle()
  perilune.stop(service)
  if not ok then error(problem, 0) end
end

local function check_board(url)
  with_board(url, function(service, base)
    for _, entry in ipairs(SCORES) do
      test.equal(perilune.call(service, "submit", entry[1], entry[2]), url ~= "")
    end
    test.equal(perilune.call(service, "top", 10), TOP)
    test.equal(perilune.call(service, "top", 1), { TOP[1] })
    test.equal({ perilune.call(service, "rank", "bob") }, { 3, 80 })
    test.equal(perilune.call(service, "rank", "eve"), nil)
    -- The same over HTTP.
    local answer = assert(http.request("POST", base .. "/scores",
      { form = { player = "eve", score = 7 } }))
    test.equal(answer:json(), { player = "eve", score = 7, stored = url ~= "" })
    test.equal(assert(http.get(base .. "/top?count=1")):json(), { top = { TOP[1] } })
    test.equal(assert(http.get(base .. "/players/eve")):json(),
      { player = "eve", place = 4, score = 7 })
    test.equal(assert(http.get(base .. "/players/nobody")).status, 404)
    for _, form in ipairs {
      { player = "a b", score = 1 }, { player = "ann", score = "x" },
      { player = "ann", score = 1.5 }, { score = 1 },
    } do
      test.equal(assert(http.request("POST", base .. "/scores", { form = form })).status, 400)
    end
    test.equal(assert(http.get(base .. "/top?count=1000")).status, 400)
  end)
end

test("the best scores are kept in memory", function() check_board "" end)

local function redis_test(name, body)
  if not has_redis then return test.skip(name, "redis-check-rdb isn't installed") end
  test(name, function()
    local url, tell = start_redis()
    local ok, problem = pcall(body, url, tell)
    tell "end"
    if not ok then error(problem, 0) end
  end, 120000)
end

redis_test("the best scores are kept in Redis, in the same order", check_board)

redis_test("what comes while Redis is away is kept, answered, and stored when it is back",
  function(url, tell)
    with_board(url, function(service)
      test.ok(perilune.call(service, "submit", "ann", 10))
      tell "kill"
      test.equal(perilune.call(service, "submit", "ann", 30), false)
      test.equal(perilune.call(service, "submit", "bob", 20), false)
      test.equal(perilune.call(service, "top", 10),
        { { player = "ann", score = 30 }, { player = "bob", score = 20 } })
      test.equal(perilune.call(service, "unsent"), 2)
      tell "start"
      test.eventually(function() return perilune.call(service, "unsent") == 0 end, 60000)
    end)
    -- Another service finds them.
    with_board(url, function(service)
      test.equal({ perilune.call(service, "rank", "bob") }, { 2, 20 })
    end)
  end)

return test
