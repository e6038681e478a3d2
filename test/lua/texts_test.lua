-- core_texts: files that lie beside scripts. The data folder is a folder of scripts, too.
local core = require "perilune.core"
local file = require "perilune.file"
local test = require "perilune.test"

local texts = core.native "core_texts"

local function write(path, text)
  assert(file.mkdir(path:match "^(.*)/"))
  assert(file.write(path, text))
end

test("files are found by their ending and come by name", function()
  write("texts/a/2.sql", "two")
  write("texts/a/1.sql", "o\0ne")
  write("texts/a/3.txt", "three")
  write("texts/a/sub/4.sql", "four")
  test.equal(texts("texts.a", ".sql"), { "1.sql", "o\0ne", "2.sql", "two" })
  test.equal(texts("texts.a", ".txt"), { "3.txt", "three" })
  test.equal(texts("texts.nowhere", ".sql"), {})
end)

test("of two of one name the folder that comes first has it", function()
  local beside = texts("tls", "certificate.pem") -- beside this file
  test.ok(beside[2]:find "BEGIN CERTIFICATE")
  write("tls/certificate.pem", "not that one")
  test.equal(texts("tls", "certificate.pem"), beside)
end)

test("a folder that can't be raises", function()
  for _, folder in ipairs { "", ".", "..", "a..b", "../etc", "/etc", "a/b", "a\0b" } do
    test.raises(function() texts(folder, ".sql") end, "is no name of a folder")
  end
  test.raises(function() texts(nil, ".sql") end)
  test.raises(function() texts("a", nil) end)
end)

test("more than a thousand files are refused", function()
  for i = 1, 1001 do write("texts/many/" .. i .. ".sql", "") end
  test.raises(function() texts("texts.many", ".sql") end, "over 1000 files")
end)

return test
