// ScriptCache: where scripts are, and their bytecode, once a process's node.
//
// Purpose:   a script is parsed once; each VM loads the bytecode. Bytecode is only ever made
//            here, from text: LuaJIT doesn't verify it, so it is never read from outside.
// Threads:   any; one mutex, not held while a file is parsed.
// Ownership: a Script lives as long as somebody holds it; a reload puts a newer one in its place.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "perilune/status.h"

namespace perilune {

struct Script {
    std::string name;          // "game.room"
    std::string path;          // "service/game/room.lua"
    std::string bytecode;      // of `return function(...) <the text> end`
    std::uint64_t digest = 0;  // of the text: whether a file has changed
    int version = 1;
};

// A file that lies beside scripts and isn't one: "0001_accounts.sql".
struct TextFile {
    std::string name;
    std::string text;
};

class ScriptCache {
  public:
    static constexpr std::size_t kMaxTexts = 1000;          // files of one texts()
    static constexpr std::size_t kMaxTextBytes = 16 << 20;  // of all of them together

    // Scripts are looked for as <folder>/<name with . as />.lua, then <...>/init.lua, in the
    // order of `folders`.
    explicit ScriptCache(std::vector<std::string> folders) : folders_(std::move(folders)) {}

    // The script of that name, parsed if it is new. Errors: not_found (with every place that
    // was looked at), invalid (file:line: what the parser says).
    Result<std::shared_ptr<const Script>> get(std::string_view name);

    // Reads the file again. The old script when the text is the same; the new one, which get()
    // returns from now on, otherwise. On an error the old one stays.
    Result<std::shared_ptr<const Script>> refresh(std::string_view name);

    // Names of all scripts in use.
    std::vector<std::string> names() const;

    // What is in the files of `folder` ("migrations.mysql") whose names end in `ending`, by name.
    // Of two that have the same name in several script folders it is the first; none is no error.
    // Errors: invalid (the folder's name), too_large (over the limits), unavailable.
    Result<std::vector<TextFile>> texts(std::string_view folder, std::string_view ending) const;

    // Where `name` is, or not_found.
    Result<std::string> find(std::string_view name) const;

  private:
    static Result<std::string> read(const std::string& path);
    static Result<std::shared_ptr<Script>> parse(std::string_view name, const std::string& path,
                                                 const std::string& text);

    const std::vector<std::string> folders_;
    mutable std::mutex mutex_;
    std::map<std::string, std::shared_ptr<const Script>, std::less<>> scripts_;
};

}  // namespace perilune
