-- What is run, and what is printed of it: returns {jobs, figures, growth}.
--
-- A job is a process: a workload (`script`) on a node of `threads` workers, or a program of the
-- build. `env` are its BENCH_ variables, `smoke` those of a run only for correctness.
-- A figure is a row of the table: names of results, or functions of all results.

---@class bench.Job
---@field name string
---@field script string?
---@field program string? of the build
---@field command string?
---@field loaded boolean? the script is a server that bench/load loads
---@field reference string? a program of the build that is loaded in its place
---@field needs string? a program without which the job is left out
---@field threads integer?
---@field light boolean?
---@field env table<string, string|number>?
---@field smoke table<string, string|number>?
---@field full boolean? only where BENCH_FULL=1

---@class bench.Figure
---@field name string
---@field unit string
---@field isolated string|fun(found: table<string, number>): number
---@field light string|fun(found: table<string, number>): number
---@field target number|fun(found: table<string, number>): number
---@field light_target number? default: target
---@field reference table? {value, name}: each a constant, or a function of all results
---@field lower boolean? less is better

local jobs, figures, growth = {}, {}, {}

-- A job for isolated services, and one for light ones.
local function add(name, script, threads, env, smoke, options)
  options = options or {}
  for _, kind in ipairs(options.kinds or { "isolated", "light" }) do
    jobs[#jobs + 1] = {
      name = ("%s t%d %s"):format(name, threads, kind), script = script, threads = threads,
      light = kind == "light", env = env, smoke = smoke, full = options.full,
    }
  end
end

local ISOLATED, LIGHT = { kinds = { "isolated" } }, { kinds = { "light" } }

---- references ----

jobs[#jobs + 1] = { name = "loop", program = "bench/loop", smoke = { N = 10000 } }
for _, name in ipairs { "codec_bench", "arena_bench" } do
  jobs[#jobs + 1] = { name = name, program = "bench/" .. name }
end
for threads = 1, 2 do
  jobs[#jobs + 1] = {
    name = "Erlang t" .. threads, command = "test/bench/erlang", needs = "erl", threads = threads,
  }
end

-- Others' figures as they were once measured, on a slower machine: marked "then".
local function once(value, name) return { value, name .. " then" } end

-- Erlang's of this run, where the machine has it.
local function erlang(result, value)
  local function measured(found) return found["erlang_" .. result] end
  return {
    function(found) return measured(found) or value end,
    function(found) return measured(found) and "Erlang" or "Erlang then" end,
  }
end

---- what is measured ----

local SIZES = { 10, 1000, 10000 } -- services, for how cost grows

for threads = 1, 2 do
  add("W1", "w1", threads, { N = 1000000 }, { N = 2000 })
  add("W2 1to1", "w2", threads, { MODE = "1to1", N = 2000000 }, { N = 20000 })
  add("W2 4to1", "w2", threads, { MODE = "4to1", N = 2000000 }, { N = 20000 })
  add("W2 ring", "w2", threads, { MODE = "ring", N = 4000000 }, { N = 5000, RING = 100 })
end
add("W3 cycle", "w3", 1, { MODE = "cycle", N = 5000 }, { N = 20 })
add("W3 mem 2000", "w3", 2, { MODE = "mem", N = 2000 }, { N = 50, SETTLE_MS = 10 }, ISOLATED)
add("W3 mem 10000", "w3", 2, { MODE = "mem", N = 10000 }, { N = 100, SETTLE_MS = 10 }, ISOLATED)
add("W3 mem 100000", "w3", 2, { MODE = "mem", N = 100000 }, { N = 1000, SETTLE_MS = 10 }, LIGHT)
add("W3 mem 1000000", "w3", 2, { MODE = "mem", N = 1000000 }, { N = 1000, SETTLE_MS = 10 },
  { kinds = { "light" }, full = true })
add("W4 timeouts", "w4", 2, { MODE = "timeouts", N = 100000 }, { N = 1000, MAX_MS = 200 }, ISOLATED)
add("W4 sleep", "w4", 2, { MODE = "sleep", N = 1000 }, { N = 20, SECONDS = 0.2 }, ISOLATED)
add("W4 idle", "w4", 2, { MODE = "idle" }, { SECONDS = 0.2 }, ISOLATED)
add("W8", "w8", 1, { N = 100000 }, { N = 100 }, ISOLATED)
jobs[#jobs + 1] = {
  name = "plain", program = "bench/loop test/bench/lua/w8_plain.lua",
  env = { N = 100000 }, smoke = { N = 100 },
}
for _, size in ipairs(SIZES) do
  local few = math.min(size, 40)
  add("W1 of " .. size, "w1", 1, { N = 400000, PAIRS = size / 2 }, { N = 1000, PAIRS = few / 2 })
  if size ~= 1000 then
    add("W2 ring of " .. size, "w2", 1, { MODE = "ring", N = 2000000, RING = size },
      { N = 1000, RING = few })
  end
  add("W3 batch of " .. size, "w3", 1, { MODE = "batch", N = size }, { N = few })
end

-- Servers under load: ours, and the same on plain asio with one thread.
local function add_server(name, script, reference, env, smoke)
  for _, kind in ipairs { "ours", "asio" } do
    local settings, small = {}, {}
    for key, value in pairs(env) do settings[key], small[key] = value, value end
    for key, value in pairs(smoke) do small[key] = value end
    settings.NAME = name .. (kind == "asio" and "_asio" or "")
    if kind == "asio" then settings.LOGIN, small.LOGIN = nil, nil end
    small.NAME = settings.NAME
    jobs[#jobs + 1] = {
      name = ("%s %s"):format(name, kind), script = script, loaded = true, threads = 1,
      reference = kind == "asio" and reference or nil, env = settings, smoke = small,
    }
  end
end

local CONNECTIONS = { 100, 2000, 10000 }
for _, connections in ipairs(CONNECTIONS) do
  for _, depth in ipairs { 1, 16 } do
    add_server(("W5_d%d_%d"):format(depth, connections), "w5", "echo_asio",
      { MODE = "echo", CONNECTIONS = connections, SIZE = 64, DEPTH = depth },
      { CONNECTIONS = 10, SECONDS = 0.2 })
  end
end
-- The encryption of our own, beside the same without.
for _, depth in ipairs { 1, 16 } do
  for _, encrypt in ipairs { 0, 1 } do
    local name = ("W5_%s_d%d"):format(encrypt == 1 and "encrypted" or "plain", depth)
    local env = {
      NAME = name, MODE = "echo", CONNECTIONS = 100, SIZE = 64, DEPTH = depth, ENCRYPT = encrypt,
    }
    jobs[#jobs + 1] = {
      name = name, script = "w5", loaded = true, threads = 1, env = env,
      smoke = { CONNECTIONS = 10, SECONDS = 0.2 },
    }
  end
end
for _, connections in ipairs { 2000, 10000 } do
  local few = { CONNECTIONS = 20, SECONDS = 0.2 }
  add_server(("W6_window_%d"):format(connections), "w6", "echo_asio broadcast",
    { MODE = "broadcast", CONNECTIONS = connections, SIZE = 100, WINDOW = 4 }, few)
  local rate = connections > 2000 and 10 or 50
  add_server(("W6_rate_%d"):format(connections), "w6", "echo_asio broadcast",
    { MODE = "broadcast", CONNECTIONS = connections, SIZE = 100, RATE = rate }, few)
end
for _, wire in ipairs { "json", "buf" } do
  for _, connections in ipairs { 100, 2000 } do
    add_server(("W11_%s_%d"):format(wire, connections), "w11", "echo_asio packet", {
      MODE = "echo", WIRE = wire, LOGIN = 1, CONNECTIONS = connections, SIZE = 64, DEPTH = 16,
    }, { CONNECTIONS = 10, SECONDS = 0.2 })
  end
end
add_server("W7", "w5", "echo_asio", { MODE = "idle", CONNECTIONS = 10000, SIZE = 64 },
  { CONNECTIONS = 50 })

jobs[#jobs + 1] = {
  name = "W9 Redis", script = "w9_redis", needs = "redis-check-rdb", threads = 1,
  env = { N = 400000 }, smoke = { N = 1000 },
}
jobs[#jobs + 1] = {
  name = "W9 MySQL", script = "w9_mysql", needs = "mariadb-slap", threads = 1,
  env = { N = 40000 }, smoke = { N = 400 },
}
jobs[#jobs + 1] = {
  name = "W9 SQLite", script = "w9_sqlite", threads = 1, env = { N = 100000 }, smoke = { N = 1000 },
}

---- rows ----

-- Figures of isolated and light services whose results have the same names.
local function row(name, unit, result, suffix, options)
  options.name, options.unit = name, unit
  options.isolated = result .. suffix
  options.light = result .. "_light" .. suffix
  figures[#figures + 1] = options
end

row("W1 call and reply, t1", "calls/s", "W1_call", "_t1",
  { target = 1.0e6, reference = erlang("call_t1", 591e3) })
row("W1 call and reply, t2", "calls/s", "W1_call", "_t2",
  { target = 1.0e6, reference = erlang("call_t2", 667e3) })
row("W2 one-way 1 to 1, t1", "messages/s", "W2_1to1", "_t1",
  { target = 2.8e6, reference = erlang("1to1_t1", 2.76e6) })
row("W2 one-way 1 to 1, t2", "messages/s", "W2_1to1", "_t2",
  { target = 3.0e6, reference = erlang("1to1_t2", 2.07e6) })
row("W2 one-way 4 to 1, t1", "messages/s", "W2_4to1", "_t1", {})
row("W2 one-way 4 to 1, t2", "messages/s", "W2_4to1", "_t2",
  { target = 2.5e6, reference = once(483e3, "moon") })
row("W2 ring of 1,000, t1", "hops/s", "W2_ring", "_t1",
  { target = 1.5e6, light_target = 2.4e6, reference = erlang("ring_t1", 2.3e6) })
row("W2 ring of 1,000, t2", "hops/s", "W2_ring", "_t2",
  { target = 2.0e6, light_target = 3.5e6, reference = erlang("ring_t2", 3.4e6) })

-- CPU a message; a call is two.
local function per_message(name, result, messages)
  figures[#figures + 1] = {
    name = name, unit = "ns CPU", lower = true,
    isolated = function(found) return found[result .. "_t1"] * 1000 / messages end,
    light = function(found) return found[result .. "_light_t1"] * 1000 / messages end,
    target = function(found) return found.loop_interpreted * 1.5 end,
    reference = { "loop_interpreted", "bare loop" },
  }
end
per_message("W1 a message", "W1_call_cpu", 2)
per_message("W2 a message", "W2_1to1_cpu", 1)

row("W3 create and end, t1", "services/s", "W3_cycle", "_t1",
  { target = 6000, light_target = 200e3, reference = erlang("spawn_t1", 362e3) })
row("W3 create 10,000, t1", "services/s", "W3_create_10000", "_t1",
  { target = 6000, light_target = 200e3, reference = erlang("spawn_t1", 362e3) })
row("W3 kill 10,000, t1", "services/s", "W3_kill_10000", "_t1", {})
figures[#figures + 1] = {
  name = "W3 memory of an idle service", unit = "KiB", lower = true,
  isolated = "W3_mem_10000", light = "W3_mem_100000_light",
  target = 40, light_target = 2.6, reference = once(55.3, "skynet"),
}
figures[#figures + 1] = {
  name = "W3 memory of 1,000,000 light", unit = "MiB", lower = true,
  light = "W3_rss_1000000_light", light_target = 3072,
}

local function w4(name, unit, result, options)
  options.name, options.unit, options.isolated = name, unit, result .. "_t2"
  options.lower = true
  figures[#figures + 1] = options
end
w4("W4 100,000 time-outs", "CPU s", "W4_cpu",
  { target = 0.15, reference = once(0.55, "moon") })
w4("W4 ... late, median", "ms", "W4_late_p50", {})
w4("W4 ... late, 99 %", "ms", "W4_late_p99", { target = 2 })
w4("W4 ... late, at most", "ms", "W4_late_max", {})
w4("W4 1,000 tasks that sleep 10 ms", "CPU us", "W4_sleep_cpu", {})
w4("W4 idle node", "% of a core", "W4_idle_cpu",
  { target = 0.05, reference = once(1.2, "skynet") })

local function w8(name, unit, result, options)
  options.name, options.unit, options.isolated = name, unit, result
  figures[#figures + 1] = options
end
w8("W8 player table, encode", "ops/s", "W8_codec_enc",
  { target = 400e3, reference = { "plain_buffer_enc", "string.buffer" } })
w8("W8 player table, decode", "ops/s", "W8_codec_dec",
  { target = 200e3, reference = { "plain_buffer_dec", "string.buffer" } })
local function within_5_percent(result)
  return function(found) return found[result] * 0.95 end
end
w8("W8 JSON, encode", "MB/s", "W8_cjson_enc_mb", {
  target = within_5_percent("plain_cjson_enc_mb"),
  reference = { "plain_cjson_enc_mb", "lua-cjson" },
})
w8("W8 JSON, decode", "MB/s", "W8_cjson_dec_mb", {
  target = within_5_percent("plain_cjson_dec_mb"),
  reference = { "plain_cjson_dec_mb", "lua-cjson" },
})

-- A figure of a server, and how it compares with plain asio in the same run. `factor`: what it
-- may cost in comparison.
local function server(name, unit, result, options)
  options.name, options.unit, options.isolated = name, unit, result
  local asio = result:gsub("_(%a+)$", "_asio_%1")
  if result:find "after_echo" then asio = "W7_asio_after_echo" end
  options.reference = { asio, "asio" }
  local factor = options.factor
  if factor then
    options.target = function(found) return found[asio] * factor end
  end
  figures[#figures + 1] = options
end
for _, connections in ipairs(CONNECTIONS) do
  local many = ("%d conn."):format(connections)
  local prefix = ("W5_d%%d_%d_"):format(connections)
  server("W5 echo, depth 1, " .. many, "CPU s/1M", prefix:format(1) .. "cpu",
    { lower = true, factor = 1.12 })
  server("W5 ... rate", "messages/s", prefix:format(1) .. "rate", {})
  server("W5 echo, depth 16, " .. many, "CPU s/1M", prefix:format(16) .. "cpu",
    { lower = true, factor = 2 })
  server("W5 ... rate", "messages/s", prefix:format(16) .. "rate",
    connections == 100 and { target = 700e3 } or {})
end
for _, depth in ipairs { 1, 16 } do
  local result = ("W5_encrypted_d%d_cpu"):format(depth)
  figures[#figures + 1] = {
    name = ("W5 encrypted, depth %d, 100 conn."):format(depth), unit = "CPU s/1M", lower = true,
    isolated = result, reference = { result:gsub("encrypted", "plain"), "plain" },
  }
end
for _, connections in ipairs { 2000, 10000 } do
  local many = ("%d conn."):format(connections)
  server("W6 broadcast, window 4, " .. many, "CPU s/1M", ("W6_window_%d_cpu"):format(connections),
    { lower = true, target = 4.0 })
  server(("W6 broadcast, %d/s, "):format(connections > 2000 and 10 or 50) .. many, "CPU s/1M",
    ("W6_rate_%d_cpu"):format(connections), { lower = true, target = 9.0 })
end
for _, wire in ipairs { "json", "buf" } do
  for _, connections in ipairs { 100, 2000 } do
    local many = ("%s, %d conn."):format(wire:upper(), connections)
    local prefix = ("W11_%s_%d_"):format(wire, connections)
    server("W11 gateway and service, " .. many, "CPU s/1M", prefix .. "cpu",
      { lower = true, target = 3 })
    server("W11 ... rate", "messages/s", prefix .. "rate",
      connections == 100 and { target = 300e3 } or {})
  end
end
for _, command in ipairs { "set", "get" } do
  local name, result = "W9 Redis " .. command:upper(), "W9_redis_" .. command
  local plain = ("redis_benchmark_%s_c1"):format(command)
  figures[#figures + 1] = {
    name = name .. ", 1 task", unit = "ops/s", isolated = result .. "_1",
    target = function(found) return found[plain] end, reference = { plain, "redis-benchmark" },
  }
  figures[#figures + 1] = {
    name = name .. ", 100 tasks", unit = "ops/s", isolated = result .. "_100", target = 150e3,
    reference = { plain .. "p100", "... -P 100" },
  }
  figures[#figures + 1] = {
    name = "W9 ... CPU", unit = "CPU us", isolated = result .. "_100_cpu", lower = true,
  }
end
for _, case in ipairs { { 1, 7e3 }, { 8, 15e3 } } do
  local connections, target = unpack(case)
  local result = "W9_mysql_get_" .. connections
  local name = connections == 1 and "1 connection" or connections .. " connections"
  figures[#figures + 1] = {
    name = "W9 MySQL SELECT by key, " .. name, unit = "ops/s", isolated = result, target = target,
    reference = { "mariadb_slap_" .. connections, "mariadb-slap" },
  }
  figures[#figures + 1] = {
    name = "W9 ... CPU", unit = "CPU us", isolated = result .. "_cpu", lower = true,
  }
end
for _, case in ipairs {
  { "SELECT by key, 1 task", "get_1" }, { "SELECT by key, 100 tasks", "get_100" },
  { "INSERT, 1 task", "insert_1" }, { "INSERT, 100 tasks", "insert_100" },
  { "INSERT, 100 a transaction", "insert_tx" },
} do
  local result = "W9_sqlite_" .. case[2]
  figures[#figures + 1] = { name = "W9 SQLite " .. case[1], unit = "ops/s", isolated = result }
  figures[#figures + 1] = {
    name = "W9 ... CPU", unit = "CPU us", isolated = result .. "_cpu", lower = true,
  }
end
server("W7 memory of an idle connection", "KiB", "W7_idle", { lower = true, target = 2 })
server("W7 ... after an echo", "KiB", "W7_after_echo", { lower = true, target = 2 })

---- how cost grows ----

for _, kind in ipairs { "", "_light" } do
  local words = kind == "" and ", isolated" or ", light"
  local suffix = kind .. "_t1"
  growth[#growth + 1] = {
    name = "W1 call" .. words,
    "W1_call_10_cpu" .. suffix, "W1_call_1000_cpu" .. suffix, "W1_call_10000_cpu" .. suffix,
  }
  growth[#growth + 1] = {
    name = "W2 hop in a ring" .. words,
    "W2_ring_10_cpu" .. suffix, "W2_ring_cpu" .. suffix, "W2_ring_10000_cpu" .. suffix,
  }
  growth[#growth + 1] = {
    name = "W3 create" .. words,
    "W3_create_cpu_10" .. suffix, "W3_create_cpu_1000" .. suffix, "W3_create_cpu_10000" .. suffix,
  }
  growth[#growth + 1] = {
    name = "W3 kill" .. words,
    "W3_kill_cpu_10" .. suffix, "W3_kill_cpu_1000" .. suffix, "W3_kill_cpu_10000" .. suffix,
  }
end

return { jobs, figures, growth }
