-- perilune.file; what needs links and pipes is in test/core/file_test.cpp.

local perilune = require "perilune"
local test = require "perilune.test"
local file = require "perilune.file"

local FOLDER = "file_test"

-- Runs a test in an empty folder.
local function in_folder(name, body)
  local function clear(path)
    for _, entry in ipairs(file.list(path) or {}) do
      local below = path .. "/" .. entry:gsub("/$", "")
      if entry:find "/$" then clear(below) end
      test.ok(file.remove(below))
    end
  end
  test(name, function()
    test.ok(file.mkdir(FOLDER))
    clear(FOLDER)
    body()
    clear(FOLDER)
    test.ok(file.remove(FOLDER))
  end)
end

local function fails(code, ...)
  local value, message, got = ...
  test.equal(value, nil)
  test.equal(got, code, message)
  test.ok(message)
end

in_folder("what is written is read, bytes as they are", function()
  local data = "\0\1\255\r\n" .. ("x"):rep(100000)
  test.equal(file.write(FOLDER .. "/a", data), true)
  test.equal(file.read(FOLDER .. "/a"), data)
  test.equal(file.size(FOLDER .. "/a"), #data)
  test.equal(file.write(FOLDER .. "/a", ""), true)
  test.equal(file.read(FOLDER .. "/a"), "")
  test.equal(file.size(FOLDER .. "/a"), 0)
end)

in_folder("append adds and makes", function()
  test.equal(file.append(FOLDER .. "/log", "one\n"), true)
  test.equal(file.append(FOLDER .. "/log", "two\n"), true)
  test.equal(file.read(FOLDER .. "/log"), "one\ntwo\n")
end)

in_folder("folders are made, listed in order and removed when empty", function()
  test.equal(file.mkdir(FOLDER .. "/b/c/d"), true)
  test.equal(file.mkdir(FOLDER .. "/b/c/d"), true)
  test.ok(file.write(FOLDER .. "/z", ""))
  test.ok(file.write(FOLDER .. "/a", ""))
  test.ok(file.write(FOLDER .. "/b/.hidden", ""))
  test.equal(file.list(FOLDER), { "a", "b/", "z" })
  test.equal(file.list(FOLDER .. "/b"), { ".hidden", "c/" })
  fails("exists", file.remove(FOLDER .. "/b"))
  test.ok(file.remove(FOLDER .. "/b/c/d"))
  test.equal(file.list(FOLDER .. "/b/c"), {})
end)

in_folder("exists tells files from folders", function()
  test.ok(file.write(FOLDER .. "/a", ""))
  test.equal({ file.exists(FOLDER .. "/a") }, { true, "file" })
  test.equal({ file.exists(FOLDER) }, { true, "folder" })
  test.equal({ file.exists(FOLDER .. "/b") }, { false })
  test.equal({ file.exists(FOLDER .. "/b/c") }, { false })
  fails("invalid", file.exists "../a")
end)

in_folder("what is not there is not found, what is something else is invalid", function()
  fails("not_found", file.read(FOLDER .. "/none"))
  fails("not_found", file.size(FOLDER .. "/none"))
  fails("not_found", file.remove(FOLDER .. "/none"))
  fails("not_found", file.list(FOLDER .. "/none"))
  fails("not_found", file.write(FOLDER .. "/none/a", ""))
  test.ok(file.write(FOLDER .. "/a", "x"))
  fails("invalid", file.read(FOLDER .. "/a/b"))
  fails("invalid", file.mkdir(FOLDER .. "/a"))
  fails("invalid", file.list(FOLDER .. "/a"))
  fails("invalid", file.read(FOLDER))
  fails("invalid", file.size(FOLDER))
  fails("invalid", file.append(FOLDER, "x"))
  test.equal(file.read(FOLDER .. "/a"), "x")
end)

in_folder("a file is not replaced by a write that fails", function()
  test.ok(file.mkdir(FOLDER .. "/a"))
  test.equal(file.write(FOLDER .. "/a", "x"), nil)
  test.equal(file.list(FOLDER), { "a/" })
end)

test("paths that leave the data folder are refused", function()
  local bad = { "", "/", "/etc/passwd", "..", ".", "a/..", "../a", "a/../../b", "a/./b", "a//b",
    "a/", "/a", "a\0b", "a\nb", "\127", ("x"):rep(256), ("x/"):rep(600) .. "x", ".perilune-1",
    "a/.perilune-1" }
  for _, path in ipairs(bad) do
    fails("invalid", file.read(path))
    fails("invalid", file.write(path, "x"))
    fails("invalid", file.append(path, "x"))
    fails("invalid", file.remove(path))
    fails("invalid", file.list(path))
    fails("invalid", file.exists(path))
    fails("invalid", file.size(path))
    fails("invalid", file.mkdir(path))
  end
end)

in_folder("sizes are limited", function()
  test.ok(file.write(FOLDER .. "/a", "12345"))
  test.equal(file.read(FOLDER .. "/a", 5), "12345")
  fails("too_large", file.read(FOLDER .. "/a", 4))
  local path, large = FOLDER .. "/large", ("x"):rep(2 ^ 24 + 1)
  test.ok(file.write(path, large))
  fails("too_large", file.read(path))
  test.equal(#file.read(path, 2 ^ 26), #large)
  for _ = 1, 2 do test.ok(file.append(path, large)) end
  fails("too_large", file.append(path, large))
  test.equal(file.size(path), 3 * #large)
  test.raises(function() file.read(path, -1) end, "bad argument #2")
  test.raises(function() file.read(path, 2 ^ 26 + 1) end, "bad argument #2")
end)

test("what is no string raises", function()
  for _, name in ipairs { "read", "write", "append", "remove", "exists", "size", "mkdir" } do
    test.raises(function() file[name] {} end, "string expected")
    test.raises(function() file[name]() end, "string expected")
  end
  test.raises(function() file.write "a" end, "string expected")
end)

in_folder("parts of files, and what there is to know of them", function()
  assert(file.mkdir "parts")
  assert(file.write("parts/a", "0123456789"))
  test.equal(file.read_part("parts/a", 0, 4), "0123")
  test.equal(file.read_part("parts/a", 8, 4), "89")
  test.equal(file.read_part("parts/a", 10, 4), "")
  test.equal(file.read_part("parts/a", 1e15, 4), "")
  test.equal(select(3, file.read_part("parts/b", 0, 4)), "not_found")
  local info = assert(file.info "parts/a")
  test.equal({ info.kind, info.size }, { "file", 10 })
  test.ok(math.abs(info.modified - perilune.time()) < 3600)
  test.equal(assert(file.info "parts").kind, "folder")
  test.equal(select(3, file.info "parts/b"), "not_found")
  test.equal(select(3, file.info "../parts"), "invalid")
  assert(file.remove "parts/a")
  assert(file.remove "parts")
end)

return test
