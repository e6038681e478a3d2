-- Lua linter (Debian's lua-check). Nothing global is written, only LuaJIT's own globals are read.
std = "luajit"
max_line_length = 100
unused_args = false -- commands have fixed signatures
exclude_files = { "build/**" }
files["lualib/meta"] = { ignore = { "211", "212", "221", "241" } } -- declarations without bodies
files["test/lua/bad"] = { ignore = { "." } } -- scripts that are broken on purpose

-- Names of tests are sentences, and services of tests do what no service should.
files["test/lua"] = { max_line_length = 110, ignore = { "241", "122", "142", "143" } }

files["test/data"] = { max_line_length = 110 }

-- config.lua runs in a Lua of its own, with these besides plain Lua.
for _, path in ipairs { "examples/web/config.lua", "test/web/game/config.lua" } do
  files[path] = { read_globals = { "env", "include" } }
end
