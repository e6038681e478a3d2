---@meta perilune.file

-- Files below the node's data folder, `data` of config.lua:
-- `local file = require "perilune.file"`.
--
-- Calls block the worker that runs the service, and with it other services: they are for small
-- things, such as a service's snapshot of some KB. write() waits for the disk, often 1 to 10 ms.
--
-- A path begins in the data folder: "maps/town.json". Absolute paths, "..", "." and names of
-- control characters are refused, symbolic links aren't followed and count as nothing. Names
-- beginning with ".perilune-" are the engine's. A file may have 64 MB.
--
-- What fails returns nil, a message and a code: "not_found", "exists" (a folder that isn't
-- empty), "invalid" (the path, or what it names), "too_large", "unavailable" (no permission, the
-- disk is full), "internal".

---@class perilune.file
local file = {}

---What is in a file.
---@param path string
---@param max integer? largest size that is read, in bytes; default 16 MB, at most 64 MB
---@return string? data
---@return string? message
---@return string? code
function file.read(path, max) end

---Replaces a file, or makes it. After a crash the file is the old or the new one as a whole; when
---true is returned it is the new one, on the disk.
---@param path string
---@param data string
---@return true? written
---@return string? message
---@return string? code
function file.write(path, data) end

---Adds to the end of a file, or makes it. A crash of the machine may lose it; when the disk is
---full, a part of it may have been added.
---@param path string
---@param data string
---@return true? appended
---@return string? message
---@return string? code
function file.append(path, data) end

---Removes a file, or a folder that is empty.
---@param path string
---@return true? removed
---@return string? message
---@return string? code
function file.remove(path) end

---The names in a folder, in the order of their bytes; those of folders end in /.
---@param path string? default: the data folder itself
---@return string[]? names at most 10000: "too_large" for a folder with more
---@return string? message
---@return string? code
function file.list(path) end

---Whether there is such a file or folder.
---@param path string
---@return boolean? exists nil for a path that can't be
---@return "file"|"folder"|string? kind or message
---@return string? code
function file.exists(path) end

---The size of a file.
---@param path string
---@return integer? bytes
---@return string? message
---@return string? code
function file.size(path) end

---@class perilune.FileInfo
---@field kind "file"|"folder"
---@field size integer bytes
---@field modified number when it was written last, in seconds since 1970

---What there is to know of a file or folder.
---@param path string
---@return perilune.FileInfo? info
---@return string? message
---@return string? code
function file.info(path) end

---A part of a file, which may be of any size.
---@param path string
---@param from integer how many bytes come before it
---@param count integer how many bytes are read, at most 16 MB
---@return string? data shorter where the file ends, or empty
---@return string? message
---@return string? code
function file.read_part(path, from, count) end

---Makes a folder, and those above it. It may be there already.
---@param path string
---@return true? made
---@return string? message
---@return string? code
function file.mkdir(path) end

return file
