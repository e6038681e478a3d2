#include "lua/script_cache.h"

#include <sys/stat.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>

#include "lua.hpp"

namespace perilune {

namespace {

constexpr std::size_t kMaxScript = 16u << 20;  // bytes of text

bool is_script_name(std::string_view name) {
    if (name.empty() || name.size() > 200 || name.front() == '.' || name.back() == '.') {
        return false;
    }
    char before = 0;
    for (const char c : name) {
        const bool word = std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-';
        if (!word && (c != '.' || before == '.')) return false;
        before = c;
    }
    return true;
}

bool is_file(const std::string& path) {
    struct stat info;
    return ::stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode);
}

int append_bytecode(lua_State*, const void* bytes, std::size_t size, void* out) {
    static_cast<std::string*>(out)->append(static_cast<const char*>(bytes), size);
    return 0;
}

// A state that only parses.
struct Parser {
    Parser() {
#if !defined(PERILUNE_STOCK_LUAJIT)
        // Bytecode holds tables in the order of their hashes: the same text, the same bytecode.
        luaJIT_setseed(1);
#endif
        L = luaL_newstate();
#if !defined(PERILUNE_STOCK_LUAJIT)
        luaJIT_setseed(0);
#endif
    }
    ~Parser() {
        if (L != nullptr) lua_close(L);
    }
    lua_State* L = nullptr;
};

Status load_text(lua_State* L, const std::string& text, const std::string& chunk_name) {
    if (luaL_loadbufferx(L, text.data(), text.size(), chunk_name.c_str(), "t") == 0) return {};
    return Status::error(StatusCode::invalid, "%s", lua_tostring(L, -1));
}

}  // namespace

Result<std::string> ScriptCache::find(std::string_view name) const {
    if (!is_script_name(name)) {
        return Status::error(StatusCode::invalid,
                             "\"%.*s\" is no name of a script: letters, digits, _, - and single "
                             "dots between them",
                             static_cast<int>(std::min<std::size_t>(name.size(), 80)), name.data());
    }
    std::string relative(name);
    std::replace(relative.begin(), relative.end(), '.', '/');
    std::string tried;
    for (const std::string& folder : folders_) {
        for (const char* ending : {".lua", "/init.lua"}) {
            std::string path = folder + "/" + relative + ending;
            if (is_file(path)) return path;
        }
        tried += (tried.empty() ? "" : ", ") + folder + "/" + relative + ".lua";
    }
    return Status::error(StatusCode::not_found, "there is no script \"%.*s\" (looked for %s)",
                         static_cast<int>(name.size()), name.data(), tried.c_str());
}

Result<std::vector<TextFile>> ScriptCache::texts(std::string_view folder,
                                                 std::string_view ending) const {
    namespace fs = std::filesystem;
    if (!is_script_name(folder)) {
        return Status::error(StatusCode::invalid, "\"%.*s\" is no name of a folder",
                             static_cast<int>(std::min<std::size_t>(folder.size(), 80)),
                             folder.data());
    }
    std::string relative(folder);
    std::replace(relative.begin(), relative.end(), '.', '/');
    std::map<std::string, std::string> paths;  // by name
    for (const std::string& place : folders_) {
        std::error_code error;
        for (fs::directory_iterator entry(place + "/" + relative, error), end;
             !error && entry != end; entry.increment(error)) {
            std::error_code gone;
            const std::string name = entry->path().filename().string();
            if (name.ends_with(ending) && entry->is_regular_file(gone)) {
                paths.try_emplace(name, entry->path().string());
            }
        }
    }
    std::size_t bytes = 0;
    std::vector<TextFile> files;
    for (const auto& [name, path] : paths) {
        Result<std::string> text = read(path);
        if (!text.ok()) return text.status();
        bytes += text.value().size();
        files.push_back({name, std::move(text.value())});
        if (files.size() > kMaxTexts || bytes > kMaxTextBytes) {
            return Status::error(StatusCode::too_large, "%s has over %zu files or %zu MB",
                                 relative.c_str(), kMaxTexts, kMaxTextBytes >> 20);
        }
    }
    return files;
}

Result<std::string> ScriptCache::read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    if (!file) {
        return Status::error(StatusCode::unavailable, "%s can't be read", path.c_str());
    }
    std::string content = text.str();
    if (content.size() > kMaxScript) {
        return Status::error(StatusCode::too_large, "%s is larger than 16 MB", path.c_str());
    }
    return content;
}

Result<std::shared_ptr<Script>> ScriptCache::parse(std::string_view name, const std::string& path,
                                                   const std::string& text) {
    const Parser parser;
    if (parser.L == nullptr) {
        return Status::error(StatusCode::unavailable, "no memory to parse %s", path.c_str());
    }
    const std::string chunk_name = "@" + path;
    // As it is first, for error messages about the text itself.
    if (Status status = load_text(parser.L, text, chunk_name); !status.ok()) return status;
    // Wrapped, each instance of the script is a closure of the same prototypes: a light service
    // costs its closures, not a copy of the bytecode.
    const bool hash_line = !text.empty() && text.front() == '#';
    const std::string wrapped =
        "return function(...) " + (hash_line ? "--" + text : text) + "\nend";
    if (Status status = load_text(parser.L, wrapped, chunk_name); !status.ok()) return status;
    auto script = std::make_shared<Script>();
    script->name = name;
    script->path = path;
    script->digest = std::hash<std::string>{}(text);
    if (lua_dump(parser.L, append_bytecode, &script->bytecode) != 0) {
        return Status::error(StatusCode::internal, "%s can't be compiled", path.c_str());
    }
    return script;
}

Result<std::shared_ptr<const Script>> ScriptCache::get(std::string_view name) {
    {
        const std::lock_guard lock(mutex_);
        const auto found = scripts_.find(name);
        if (found != scripts_.end()) return found->second;
    }
    return refresh(name);
}

Result<std::shared_ptr<const Script>> ScriptCache::refresh(std::string_view name) {
    const Result<std::string> path = find(name);
    if (!path.ok()) return path.status();
    const Result<std::string> text = read(path.value());
    if (!text.ok()) return text.status();
    int version = 1;
    {
        const std::lock_guard lock(mutex_);
        const auto found = scripts_.find(name);
        if (found != scripts_.end()) {
            if (found->second->digest == std::hash<std::string>{}(text.value())) {
                return found->second;
            }
            version = found->second->version + 1;
        }
    }
    Result<std::shared_ptr<Script>> script = parse(name, path.value(), text.value());
    if (!script.ok()) return script.status();
    script.value()->version = version;
    const std::lock_guard lock(mutex_);
    scripts_[std::string(name)] = script.value();
    return std::shared_ptr<const Script>(script.value());
}

std::vector<std::string> ScriptCache::names() const {
    const std::lock_guard lock(mutex_);
    std::vector<std::string> list;
    for (const auto& [name, script] : scripts_) list.push_back(name);
    return list;
}

}  // namespace perilune
