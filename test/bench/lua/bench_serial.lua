-- W8: how fast a table is written and read. Plain Lua, so that the references run it too.

local serial = {}

local ROUNDS = 5
local SLICE = 1000 -- times without a pause

-- The player of W8: about 40 scalars at several depths, the same for all engines.
function serial.player()
  return {
    id = 10000123, uid = "u-7f3a9c21", name = "小明·Zoë✨", level = 57, exp = 1234567, vip = 3,
    gold = 99887766, gem = 4321, hp = 1820.5, mp = 640.25, x = 1023.125, y = -77.5, z = 3.0625,
    scene = 1001, online = true, guild = "龙之谷", title = "Grand Marshal", created = 1700000000,
    last_login = 1731900000, lang = "zh-CN",
    attr = {
      str = 101, agi = 88, int = 45, vit = 130, luk = 12, crit = 0.175, dodge = 0.0825,
      haste = 1.35,
    },
    equip = {
      { id = 30001, lv = 12, star = 5, name = "破军之剑", gems = { 11, 12, 13 } },
      { id = 30002, lv = 10, star = 4, name = "Aegis", gems = { 21, 22 } },
      { id = 30003, lv = 11, star = 3, name = "Boots of Ünïcode", gems = { 31 } },
    },
    bag = {
      1001, 1002, 1003, 1004, 1005, 2001, 2002, 2003, 70001, 70002, 70003, 70004, 123456, 654321,
      1, 2, 3,
    },
    skills = { 501, 502, 503, 504, 505, 506 },
    quests = { { id = 9001, step = 2, done = false }, { id = 9002, step = 5, done = true } },
    friends = { "alice", "bob", "张三", "李四" },
    settings = { music = 0.8, sound = 0.5, push = true, quality = "high" },
  }
end

-- Whether a copy is what was copied.
local function same(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then return a == b end
  for key, value in pairs(a) do
    if not same(value, b[key]) then return false end
  end
  for key in pairs(b) do
    if a[key] == nil then return false end
  end
  return true
end
local function median(values)
  table.sort(values)
  return values[math.ceil(#values / 2)]
end

---@class bench.Setting
---@field count integer times to encode, and to decode
---@field result fun(name: string, value: number, unit: string)
---@field check fun(condition: any, text: string)
---@field pause fun() lets others run

-- Prints times a second and MB a second: medians of ROUNDS, by processor time.
---@param setting bench.Setting
function serial.measure(name, encode, decode, setting)
  local player = serial.player()
  local bytes = encode(player)
  setting.check(same(player, (decode(bytes))), name .. ": the copy is not the same")

  local slices = math.ceil(setting.count / ROUNDS / SLICE)
  local slice = math.min(SLICE, setting.count)
  local function rate(body)
    body(slice)
    local rates = {}
    for round = 1, ROUNDS do
      local began = os.clock()
      for _ = 1, slices do
        body(slice)
        setting.pause()
      end
      rates[round] = slices * slice / (os.clock() - began)
    end
    return median(rates)
  end

  -- The table changes and what is made is kept, or a compiler would make it once or never.
  local kept
  local encoded = rate(function(times)
    for i = 1, times do
      player.exp = 1000000 + i
      kept = encode(player)
    end
  end)
  setting.check(decode(kept).exp >= 1000000, name .. ": encoding stopped")
  local decoded = rate(function(times)
    for _ = 1, times do kept = decode(bytes) end
  end)
  setting.check(kept.exp == 1234567, name .. ": decoding stopped")

  setting.result(name .. "_bytes", #bytes, "bytes")
  setting.result(name .. "_enc", encoded, "ops/s")
  setting.result(name .. "_dec", decoded, "ops/s")
  setting.result(name .. "_enc_mb", encoded * #bytes / 1e6, "MB/s")
  setting.result(name .. "_dec_mb", decoded * #bytes / 1e6, "MB/s")
end

return serial
