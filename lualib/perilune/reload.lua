-- Reload: joins the new text of a script to what runs.
--
-- For the host alone: this file and those in reload/ need debug, jit.util and string.dump, which
-- services must not have. The host runs them in globals of their own, with libraries that no script
-- has seen (engine/lua/vm_reload.cpp): those that it sees it may have changed. So no methods of
-- strings are called here; they are the script's.
--
--   local reload = require "perilune.reload"
--   local scratch = reload.scratch(environment)
--   ... runs the new text in `scratch` ...
--   local plan, problems = reload.plan(old, new)  -- changes nothing
--   if plan then local now = reload.apply(plan) end -- can't fail
--   reload.undo(plan) -- the old functions again, the state as it is
--
-- plan and apply belong together at one message boundary: no Lua code of the service runs
-- between or during them, no hook interrupts them.
--
-- What is what. A *variable* is a local that a function captures. One that is declared once while
-- the file runs (not in a loop) has one cell and is joined by its name. Others (locals of loops,
-- of functions called while the file runs) have many cells of a name: they are joined function by
-- function, where the old and the new function are found in the same place.
--
-- A variable takes its new value when
--   * its name is UPPER_CASE (two characters at least);
--   * its new value is a function; but what a factory of another file gave, as perilune.queue does,
--     is kept when the same factory made both and it holds state (a table or userdata, a number
--     that it changes), unless it carries a function of this script;
--   * its new value is what a require gave;
--   * its new value is a number, a string or a boolean and no function of the new text assigns it;
--   * no function of the old text assigned it and its old value is none of table, userdata and
--     coroutine: it can't have changed since the file ran;
--   * no function of either text assigns it and its new value is a table that was there before,
--     such as `string` or a field of a module.
-- All others are state: the new functions get the old cell. What the file itself assigns, outside
-- of functions, is no assignment here: it is how a value begins.
--
-- A table that is state keeps its identity and its entries, and gets what is code in the new one:
--   * functions: an entry that is a function in the new table is new, unless a function of some
--     other file stands there now; one that the old file put there and the new doesn't goes;
--   * entries named UPPER_CASE, and metamethods (`__index` ...) are new;
--   * a string key that the old text never set is added with its new value;
--   * tables in both below one key, and their metatables, are joined likewise, unless they have
--     a variable of their own.
-- The tables of commands and of modules, and what the script put into its environment, too; from
-- the tables of commands and modules all deleted functions go, and a function that a variable
-- holds is replaced there wherever it was put. An UPPER_CASE table that has functions keeps its
-- identity (it may be a class) and gets exactly its new entries; one without is another table.
--
-- Functions of the old text that still live (running tasks, timers by function, callbacks in
-- tables of state) go on with the old code and share the state.

-- Values of scripts are compared by rawequal: == could call their code.

local joins = require "perilune.reload.join"

-- Planning -------------------------------------------------------------------------------------

---An environment for running the new text of a script: it reads through to the script's, and what
---is written stays in it.
---@param env table the script's
---@return table scratch
local function make_scratch(env)
  local meta = debug.getmetatable(env)
  local guard = meta and rawget(meta, "__newindex")
  local scratch = setmetatable({}, {
    __index = env,
    __newindex = type(guard) == "function" and guard or nil,
  })
  if rawequal(rawget(env, "_G"), env) then rawset(scratch, "_G", scratch) end
  return scratch
end

-- The names of the functions of a table of commands, in order.
local function command_names(commands, prefix)
  local names = {}
  for name, value in next, commands do
    if type(name) == "string" and type(value) == "function" then
      names[#names + 1] = prefix .. name
    end
  end
  table.sort(names)
  return names
end

-- Those of the old names that the new ones don't have.
local function missing_of(old, new)
  local there, missing = {}, {}
  for _, name in ipairs(new) do there[name] = true end
  for _, name in ipairs(old) do
    if not there[name] then missing[#missing + 1] = name end
  end
  return missing
end

-- Notes a script that returns no tables, or no commands any more: a file that is half saved, or the
-- wrong one. Nobody means to make a running service deaf.
local function check_returned(join, old, new)
  local function check(value, which)
    if type(value) ~= "table" then
      join:problem(join.unit, 1, "the script returns %s as its table of %s", type(value), which)
    end
  end
  check(new.commands, "commands")
  if new.client ~= nil then check(new.client, "client commands") end
  if #join.problems > 0 then return end
  local had = command_names(old.commands, "")
  if #had > 0 and #command_names(new.commands, "") == 0 then
    join:problem(join.unit, 1, "the script has no commands any more, and had %s",
      table.concat(had, ", "))
  end
end

-- The names of the commands that the new text doesn't have any more, or nil.
local function vanished_commands(old, new)
  local vanished = missing_of(command_names(old.commands, ""), command_names(new.commands, ""))
  for _, name in ipairs(missing_of(command_names(old.client or {}, "client "),
    command_names(new.client or {}, "client "))) do
    vanished[#vanished + 1] = name
  end
  if #vanished > 0 then return table.concat(vanished, ", ") end
end

---Checks whether the new text can be joined to the old. Changes nothing that runs. Both are
---  main      the function that the text is, or that of any other load of it
---  env       its environment; of the new one what scratch() gave
---  commands  the table that it returned
---  client    the second one, or nil
---  modules   nil, or name -> {main, value} of the game's modules; in the new one those alone
---            whose text was run again
---and the new one has besides
---  loaded    nil, or name -> value of everything that require can give, the engine's too
---@param old table
---@param new table
---@return table? plan
---@return string[]? problems "file:line: what", when there is no plan
local function make_plan(old, new)
  local join = joins.new(old, new)
  check_returned(join, old, new)
  if #join.problems == 0 then join:run() end
  if #join.problems > 0 then return nil, join.problems end
  local result = {
    commands = join:now(new.commands), client = join:now(new.client), modules = {},
    vanished = vanished_commands(old, new),
  }
  for name, module in pairs(new.modules or {}) do
    result.modules[name] = join:now(module.value)
  end
  return {
    steps = join.steps, undo = {}, scratch = new.env, env = old.env, result = result,
    before = { commands = old.commands, client = old.client },
  }
end

-- Applying -------------------------------------------------------------------------------------

local apply_step = {
  env = function(_, f, env) debug.setfenv(f, env) end,
  join = function(_, f, index, other, other_index)
    debug.upvaluejoin(f, index, other, other_index)
  end,
  value = function(_, f, index, value) debug.setupvalue(f, index, value) end,
  copy = function(_, f, index, other, other_index)
    local _, value = debug.getupvalue(other, other_index)
    debug.setupvalue(f, index, value)
  end,
  set = function(plan, object, key, value)
    plan.undo[#plan.undo + 1] = { "set", object, key, rawget(object, key), value }
    rawset(object, key, value)
  end,
  meta = function(plan, object, meta)
    plan.undo[#plan.undo + 1] = { "meta", object, debug.getmetatable(object), meta }
    debug.setmetatable(object, meta)
  end,
}

---Carries a plan out.
---@param plan table
---@return table now the tables that count from now on: {commands, client, modules = {name = value},
---vanished = names of commands that there were and aren't, or nil}
local function apply_plan(plan)
  for _, step in ipairs(plan.steps) do apply_step[step[1]](plan, unpack(step, 2, 5)) end
  -- A function that was not found, in a coroutine for example, sees the real environment.
  for key in next, plan.scratch do rawset(plan.scratch, key, nil) end
  debug.setmetatable(plan.scratch, { __index = plan.env, __newindex = plan.env })
  jit.flush()
  return plan.result
end

---Takes an applied plan back: the functions, constants and metatables of the old text are in
---their places again, except where something else has been put since. State stays as it is.
---@param plan table
---@return table before {commands, client} as before the plan
local function undo_plan(plan)
  for i = #plan.undo, 1, -1 do
    local kind, object = plan.undo[i][1], plan.undo[i][2]
    if kind == "set" then
      local _, _, key, before, after = unpack(plan.undo[i], 1, 5)
      if rawequal(rawget(object, key), after) then rawset(object, key, before) end
    elseif rawequal(debug.getmetatable(object), plan.undo[i][4]) then
      debug.setmetatable(object, plan.undo[i][3])
    end
  end
  plan.undo = {}
  jit.flush()
  return plan.before
end

return { scratch = make_scratch, plan = make_plan, apply = apply_plan, undo = undo_plan }
