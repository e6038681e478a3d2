-- W8's references, in a Lua state without an engine: test/bench/loop.cpp runs it.

local serial = require "bench_serial"
local cjson, buffer = require "cjson", require "string.buffer"

local setting = {
  count = tonumber(os.getenv("BENCH_N") or 40000),
  result = function(name, value, unit)
    io.stdout:write(string.format("RESULT %s %.6g %s\n", name, value, unit))
  end,
  check = assert,
  pause = function() end,
}

cjson.decode_invalid_numbers(false) -- as the engine sets it
serial.measure("plain_cjson", cjson.encode, cjson.decode, setting)
serial.measure("plain_buffer", buffer.encode, buffer.decode, setting)
