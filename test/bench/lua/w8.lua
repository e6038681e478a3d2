-- W8: the player table through the codec between services and through lua-cjson, BENCH_N times.

local perilune = require "perilune"
local util = require "bench_util"
local serial = require "bench_serial"
local w8 = {}

function w8.on_start()
  util.main(function()
    local codec, cjson = require "perilune.codec", require "cjson"
    local setting = {
      count = util.env("BENCH_N", 40000),
      result = util.result,
      check = util.check,
      pause = perilune.yield,
    }
    serial.measure("W8_codec", codec.pack, codec.unpack, setting)
    serial.measure("W8_cjson", cjson.encode, cjson.decode, setting)
  end)
end

return w8
