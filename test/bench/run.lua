-- Runs the benchmarks, one process a job, in turns, and prints medians beside targets and
-- references. Run by test/bench/run, in the root of the repository. Rounds of a job during which
-- other processes were busy don't count where there is a quiet one.

local jobs, figures, growth = unpack(dofile("test/bench/figures.lua"))

local smoke = os.getenv("BENCH_SMOKE") == "1"
local full = os.getenv("BENCH_FULL") == "1"
local only = os.getenv("BENCH_ONLY") or ""
local reps = smoke and 1 or tonumber(os.getenv("BENCH_REPS") or 3)
local build = os.getenv("PERILUNE_BUILD") or "build/release"
local RESULTS = "build/bench/results.txt"
local LIMIT = smoke and 60 or 300 -- seconds a job
local NOISE = 0.2 -- cores that others may use in a quiet round

local function shell_line(command)
  local pipe = assert(io.popen(command))
  local line = pipe:read("*l")
  pipe:close()
  return line or ""
end

local function numbers_of(file, pattern)
  local handle = assert(io.open(file))
  local text = handle:read("*a"):match(pattern)
  handle:close()
  local numbers = {}
  for word in text:gmatch("%d+") do numbers[#numbers + 1] = tonumber(word) end
  return numbers
end

-- Clock ticks of all processes, and of those that this one has started and seen end.
local function machine_ticks()
  local n = numbers_of("/proc/stat", "cpu +([^\n]*)")
  return n[1] + n[2] + n[3] + n[6] + n[7] + n[8]
end
local function own_ticks()
  local n = numbers_of("/proc/self/stat", "%) %a (.*)")
  return n[11] + n[12] + n[13] + n[14]
end

local function wall_seconds()
  return tonumber(shell_line("date +%s.%N"))
end

-- Begins to look how many cores others use; what is returned says how many it were.
local function watch_others()
  local machine, own, began = machine_ticks(), own_ticks(), wall_seconds()
  return function()
    local ticks = (machine_ticks() - machine) - (own_ticks() - own)
    return ticks / 100 / (wall_seconds() - began)
  end
end

local function median(values)
  table.sort(values)
  local middle = math.ceil(#values / 2)
  if #values % 2 == 1 then return values[middle] end
  return (values[middle] + values[middle + 1]) / 2
end

---- jobs ----

-- `name=value` words for a shell, from a job's parameters.
local function environment(job)
  local words = {
    "PERILUNE_BUILD=" .. build, "BENCH_THREADS=" .. (job.threads or 1),
    "BENCH_LIGHT=" .. (job.light and 1 or 0),
  }
  local settings = {}
  for name, value in pairs(job.env or {}) do settings[name] = value end
  for name, value in pairs(smoke and job.smoke or {}) do settings[name] = value end
  for name, value in pairs(settings) do words[#words + 1] = "BENCH_" .. name .. "=" .. value end
  return table.concat(words, " ")
end

local function command_of(job)
  local program = job.command
  if job.script then program = "test/bench/launch " .. job.script end
  if job.program then program = build .. "/" .. job.program end
  if job.reference then program = build .. "/bench/" .. job.reference end
  if job.loaded then program = build .. "/bench/load " .. program end
  return ("env %s timeout -k 5 %d %s 2>&1"):format(environment(job), LIMIT, program)
end

-- Runs a job. Returns its results, {name, value}, and nil; or what was wrong.
local function run(job, log)
  local pipe = assert(io.popen(command_of(job) .. "; echo EXIT $?"))
  local results, output = {}, {}
  local code
  for line in pipe:lines() do
    local name, value = line:match("^RESULT (%S+) (%S+) %S+$")
    if name then
      results[#results + 1] = { name, assert(tonumber(value), line) }
      log:write(line, "\n")
    end
    code = line:match("^EXIT (%d+)$") or code
    output[#output + 1] = line
  end
  pipe:close()
  local text = table.concat(output, "\n")
  local failed = text:find("^FAIL") or text:find("\nFAIL") or text:find("stack traceback", 1, true)
  if failed or code ~= "0" or #results == 0 then return nil, text:sub(-2000) end
  return results
end

local function progress(text)
  if shell_line("test -t 2 && echo yes") == "yes" then
    io.stderr:write("\r\27[K", text)
    io.stderr:flush()
  end
end

---- the table ----

local function short(value)
  if not value then return "" end
  local size = math.abs(value)
  if size >= 999500 then return ("%.2f M"):format(value / 1e6) end
  if size >= 99950 then return ("%.0f k"):format(value / 1e3) end
  if size >= 9995 then return ("%.1f k"):format(value / 1e3) end
  if size >= 99.5 then return ("%.0f"):format(value) end
  if size >= 9.95 then return ("%.1f"):format(value) end
  return ("%.2f"):format(value)
end

local function print_table(rows)
  local widths = {}
  for _, row in ipairs(rows) do
    for i, cell in ipairs(row) do widths[i] = math.max(widths[i] or 0, #cell) end
  end
  for _, row in ipairs(rows) do
    local cells = {}
    for i, cell in ipairs(row) do
      local pad = (" "):rep(widths[i] - #cell)
      cells[i] = rows.left[i] and cell .. pad or pad .. cell
    end
    print((table.concat(cells, "  "):gsub("%s+$", "")))
  end
end

local function mark(value, target, lower)
  if not value or not target then return "" end
  local reached
  if lower then reached = value <= target else reached = value >= target end
  return reached and "ok" or "below"
end

-- A figure's value: the name of a result, or a function of the results.
local function value_of(source, found)
  if type(source) == "function" then
    local ok, value = pcall(source, found)
    return ok and value or nil -- what it needs has not been measured
  end
  if type(source) == "number" then return source end
  return source and found[source]
end

local function figures_table(found)
  local rows = { left = { true, [4] = true, [8] = true, [10] = true, [11] = true } }
  rows[1] = {
    "figure", "isolated", "light", "unit", "target", "(light)", "reference", "", "ratio", "",
    "(light)",
  }
  for _, figure in ipairs(figures) do
    local isolated, light = value_of(figure.isolated, found), value_of(figure.light, found)
    if isolated or light then
      local target = value_of(figure.target, found)
      local light_target = value_of(figure.light_target, found) or light and target
      local reference, name = unpack(figure.reference or {})
      reference = value_of(reference, found)
      if type(name) == "function" then name = name(found) end
      rows[#rows + 1] = {
        figure.name, short(isolated), short(light), figure.unit, short(isolated and target),
        short(light_target), short(reference), name or "",
        reference and ("%.2f"):format((isolated or light) / reference) or "",
        mark(isolated, target, figure.lower), mark(light, light_target, figure.lower),
      }
    end
  end
  print_table(rows)
end

local function growth_table(found)
  local rows = { left = { true, [5] = true, [7] = true } }
  rows[1] = { "CPU per operation, at services:", "10", "1,000", "10,000", "unit", "10k : 1k", "" }
  for _, curve in ipairs(growth) do
    local values = {}
    for i, name in ipairs(curve) do values[i] = found[name] end
    if values[2] and values[3] then
      local factor = values[3] / values[2]
      rows[#rows + 1] = {
        curve.name, short(values[1]), short(values[2]), short(values[3]), "us",
        ("%.2f"):format(factor), mark(factor, curve.limit or 2, true),
      }
    end
  end
  if #rows > 1 then
    print()
    print_table(rows)
  end
end

---- all of it ----

os.execute("mkdir -p build/bench")
local log = assert(io.open(RESULTS, "w"))
local machine = shell_line("sed -n 's/^model name.*: //p' /proc/cpuinfo") .. ", " ..
  shell_line("nproc") .. " cores, " .. shell_line("uname -sr")
log:write("# ", machine, ", ", shell_line("date -u +%FT%TZ"), "\n")

local chosen, left_out = {}, {}
for _, job in ipairs(jobs) do
  if job.name:find(only) and (full or not job.full) then
    local possible = not job.needs or shell_line("command -v " .. job.needs) ~= ""
    table.insert(possible and chosen or left_out, job)
  end
end

local samples, failures, passed = {}, {}, 0
local others = watch_others()
for rep = 1, reps do
  for i, job in ipairs(chosen) do
    progress(("bench: round %d of %d, %d of %d: %s"):format(rep, reps, i, #chosen, job.name))
    local noise = watch_others()
    local results, problem = run(job, log)
    local kind = noise() <= NOISE and "quiet" or "noisy"
    for _, result in ipairs(results or {}) do
      local name, value = unpack(result)
      samples[name] = samples[name] or { quiet = {}, noisy = {} }
      table.insert(samples[name][kind], value)
    end
    if results then
      passed = passed + 1
    else
      failures[#failures + 1] = job.name .. "\n" .. problem
    end
  end
end
progress("")
log:close()

local found = {}
for name, values in pairs(samples) do
  found[name] = median(#values.quiet > 0 and values.quiet or values.noisy)
end

if not smoke then
  print(machine)
  print(("medians of %d; every line of RESULT is in %s"):format(reps, RESULTS))
  local cores = others()
  if cores > NOISE then
    print(("other processes used %.1f cores meanwhile: rates are too low"):format(cores))
  end
  print()
  figures_table(found)
  growth_table(found)
end
for _, job in ipairs(left_out) do
  print(("\n%s was left out: there is no %s"):format(job.name, job.needs))
end
for _, text in ipairs(failures) do print("\nFAIL " .. text) end
print(("\n%d passed, %d failed"):format(passed, #failures))
os.exit(#failures == 0 and 0 or 1)
