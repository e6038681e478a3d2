#include "lua/lua_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/data_path.h"
#include "lua/lua_core.h"

namespace perilune {
namespace {

constexpr std::size_t kMaxFile = 64u << 20;
constexpr std::size_t kDefaultRead = 16u << 20;
constexpr std::size_t kMaxEntries = 10000;

// The functions' upvalues.
enum Upvalue { kFolder = 1, kBufferMetatable = 2 };

// --- the file system; nothing here touches Lua ---

class Descriptor {
  public:
    explicit Descriptor(int fd) : fd_(fd) {}
    Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Descriptor& operator=(Descriptor&& other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    ~Descriptor() {
        if (fd_ >= 0) ::close(fd_);
    }

    int get() const { return fd_; }
    bool is_open() const { return fd_ >= 0; }

  private:
    int fd_;
};

// Repeats a system call that a signal interrupted.
template <typename Call>
auto uninterrupted(Call call) {
    auto result = call();
    while (result == -1 && errno == EINTR) result = call();
    return result;
}

Status too_large(std::string_view path, std::size_t most) {
    return Status::error(StatusCode::too_large, "%.*s: more than %zu bytes",
                         static_cast<int>(std::min<std::size_t>(path.size(), 160)), path.data(),
                         most);
}

// What errno says, for `path`.
Status failure(std::string_view path) {
    const int error = errno;
    StatusCode code = StatusCode::internal;
    switch (error) {
        case ENOENT: code = StatusCode::not_found; break;
        case ENOTDIR:
        case EISDIR:
        case ELOOP:
        case ENAMETOOLONG:
        case EINVAL: code = StatusCode::invalid; break;
        case EEXIST:
        case ENOTEMPTY: code = StatusCode::exists; break;
        case EFBIG: code = StatusCode::too_large; break;
        case EACCES:
        case EPERM:
        case EROFS:
        case ENOSPC:
        case EDQUOT:
        case EMFILE:
        case ENFILE:
        case ENOMEM:
        case EBUSY: code = StatusCode::unavailable; break;
        default: break;
    }
    std::array<char, 128> buffer;
    const char* text =
        error == ELOOP ? "a symbolic link" : ::strerror_r(error, buffer.data(), buffer.size());
    return Status::error(code, "%.*s: %s",
                         static_cast<int>(std::min<std::size_t>(path.size(), 160)), path.data(),
                         text);
}

// The parts of a path that check_data_path() has passed, one by one.
class Parts {
  public:
    explicit Parts(std::string_view path) : rest_(path) { next(); }

    const char* name() const { return name_.data(); }
    bool is_last() const { return rest_.empty(); }
    void next() {
        const std::string_view part = rest_.substr(0, rest_.find('/'));
        part.copy(name_.data(), kMaxFileName);
        name_[part.size()] = '\0';
        rest_.remove_prefix(std::min(part.size() + 1, rest_.size()));
    }

  private:
    std::string_view rest_;
    std::array<char, kMaxFileName + 1> name_;
};

constexpr int kFolderFlags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
// A pipe or a device must not block or act when it is opened.
constexpr int kFileFlags = O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;

Result<Descriptor> open_root(const char* root, bool create) {
    Descriptor folder(uninterrupted([&] { return ::open(root, kFolderFlags); }));
    if (!folder.is_open() && errno == ENOENT && create) {
        if (::mkdir(root, 0777) != 0 && errno != EEXIST) return failure("the data folder");
        folder = Descriptor(uninterrupted([&] { return ::open(root, kFolderFlags); }));
    }
    if (!folder.is_open()) return failure("the data folder");
    return folder;
}

// The folder that the last part of `path` is in. `parts` is moved there.
Result<Descriptor> open_parent(const char* root, std::string_view path, Parts& parts, bool create) {
    Result<Descriptor> folder = open_root(root, create);
    while (folder.ok() && !parts.is_last()) {
        Descriptor next(uninterrupted([&] {
            return ::openat(folder.value().get(), parts.name(), kFolderFlags | O_NOFOLLOW);
        }));
        if (!next.is_open()) return failure(path);
        folder.value() = std::move(next);
        parts.next();
    }
    return folder;
}

Result<Descriptor> open_file(const char* root, std::string_view path, int flags) {
    if (const Status status = check_data_path(path); !status.ok()) return status;
    Parts parts(path);
    Result<Descriptor> folder = open_parent(root, path, parts, (flags & O_CREAT) != 0);
    if (!folder.ok()) return folder;
    Descriptor file(uninterrupted(
        [&] { return ::openat(folder.value().get(), parts.name(), flags | kFileFlags, 0666); }));
    if (!file.is_open()) return errno == ENXIO ? invalid_path(path, "not a file") : failure(path);
    return file;
}

// Size of an open file.
Result<std::size_t> size_of(const Descriptor& file, std::string_view path) {
    struct stat info;
    if (::fstat(file.get(), &info) != 0) return failure(path);
    if (!S_ISREG(info.st_mode)) return invalid_path(path, "not a file");
    return static_cast<std::size_t>(info.st_size);
}

Status read_file(const char* root, std::string_view path, std::size_t most, std::string& data) {
    const Result<Descriptor> file = open_file(root, path, O_RDONLY);
    if (!file.ok()) return file.status();
    const Result<std::size_t> size = size_of(file.value(), path);
    if (!size.ok()) return size.status();
    if (size.value() > most) return too_large(path, most);
    data.resize(size.value());
    std::size_t filled = 0;
    while (filled < data.size()) {  // what somebody appends meanwhile is left out
        const ssize_t count = uninterrupted(
            [&] { return ::read(file.value().get(), data.data() + filled, data.size() - filled); });
        if (count < 0) return failure(path);
        if (count == 0) break;
        filled += static_cast<std::size_t>(count);
    }
    data.resize(filled);
    return {};
}

// Up to `count` bytes from `from` on; fewer where the file ends.
Status read_part(const char* root, std::string_view path, std::size_t from, std::size_t count,
                 std::string& data) {
    const Result<Descriptor> file = open_file(root, path, O_RDONLY);
    if (!file.ok()) return file.status();
    const Result<std::size_t> size = size_of(file.value(), path);
    if (!size.ok()) return size.status();
    data.resize(std::min(count, size.value() - std::min(from, size.value())));
    std::size_t filled = 0;
    while (filled < data.size()) {
        const ssize_t got = uninterrupted([&] {
            return ::pread(file.value().get(), data.data() + filled, data.size() - filled,
                           static_cast<off_t>(from + filled));
        });
        if (got < 0) return failure(path);
        if (got == 0) break;
        filled += static_cast<std::size_t>(got);
    }
    data.resize(filled);
    return {};
}

bool write_all(int fd, std::string_view data) {
    while (!data.empty()) {
        const ssize_t count = uninterrupted([&] { return ::write(fd, data.data(), data.size()); });
        if (count < 0) return false;
        data.remove_prefix(static_cast<std::size_t>(count));
    }
    return true;
}

bool sync(const Descriptor& file) {
    return uninterrupted([&] { return ::fsync(file.get()); }) == 0;
}

Status write_file(const char* root, std::string_view path, std::string_view data) {
    if (const Status status = check_data_path(path); !status.ok()) return status;
    if (data.size() > kMaxFile) return too_large(path, kMaxFile);
    Parts parts(path);
    const Result<Descriptor> folder = open_parent(root, path, parts, true);
    if (!folder.ok()) return folder.status();
    const int parent = folder.value().get();

    std::uint64_t random = 0;
    if (::getrandom(&random, sizeof(random), 0) != sizeof(random)) return failure(path);
    std::array<char, 32> temporary;
    std::snprintf(temporary.data(), temporary.size(), "%.*s%016" PRIx64,
                  static_cast<int>(kEngineFile.size()), kEngineFile.data(), random);
    const Descriptor file(uninterrupted([&] {
        return ::openat(parent, temporary.data(), O_WRONLY | O_CREAT | O_EXCL | kFileFlags, 0666);
    }));
    if (!file.is_open()) return failure(path);
    // Its content is on the disk before its name is, and its name before true is returned.
    if (!write_all(file.get(), data) || !sync(file) ||
        ::renameat(parent, temporary.data(), parent, parts.name()) != 0) {
        const Status status = failure(path);
        ::unlinkat(parent, temporary.data(), 0);
        return status;
    }
    if (!sync(folder.value())) return failure(path);
    return {};
}

Status append_file(const char* root, std::string_view path, std::string_view data) {
    const Result<Descriptor> file = open_file(root, path, O_WRONLY | O_APPEND | O_CREAT);
    if (!file.ok()) return file.status();
    const Result<std::size_t> size = size_of(file.value(), path);
    if (!size.ok()) return size.status();
    if (data.size() > kMaxFile || size.value() > kMaxFile - data.size()) {
        return too_large(path, kMaxFile);
    }
    if (!write_all(file.value().get(), data)) return failure(path);
    return {};
}

Status remove_file(const char* root, std::string_view path) {
    if (const Status status = check_data_path(path); !status.ok()) return status;
    Parts parts(path);
    const Result<Descriptor> folder = open_parent(root, path, parts, false);
    if (!folder.ok()) return folder.status();
    if (::unlinkat(folder.value().get(), parts.name(), 0) == 0) return {};
    if (errno == EISDIR && ::unlinkat(folder.value().get(), parts.name(), AT_REMOVEDIR) == 0) {
        return {};
    }
    return failure(path);
}

enum class Kind : std::uint8_t { none, file, folder };

struct Found {
    Kind kind = Kind::none;
    std::size_t size = 0;
    double modified = 0;  // seconds since 1970
};

Kind kind_of(const struct stat& info) {
    if (S_ISREG(info.st_mode)) return Kind::file;
    return S_ISDIR(info.st_mode) ? Kind::folder : Kind::none;
}

Result<Found> find_file(const char* root, std::string_view path) {
    if (const Status status = check_data_path(path); !status.ok()) return status;
    Parts parts(path);
    const Result<Descriptor> folder = open_parent(root, path, parts, false);
    if (!folder.ok()) return folder.status();
    struct stat info;
    if (::fstatat(folder.value().get(), parts.name(), &info, AT_SYMLINK_NOFOLLOW) != 0) {
        return failure(path);
    }
    const double modified =
        static_cast<double>(info.st_mtim.tv_sec) + static_cast<double>(info.st_mtim.tv_nsec) / 1e9;
    return Found{kind_of(info), static_cast<std::size_t>(info.st_size), modified};
}

// Names with a zero byte after each, folders' with / before it, in the order of bytes.
Status list_folder(const char* root, std::string_view path, std::string& names) {
    Result<Descriptor> folder =
        path.empty() ? open_root(root, true) : open_file(root, path, kFolderFlags);
    if (!folder.ok()) return folder.status();
    const int fd = ::dup(folder.value().get());
    if (fd < 0) return failure(path);
    DIR* entries = ::fdopendir(fd);
    if (entries == nullptr) {
        const Status status = failure(path);
        ::close(fd);
        return status;
    }
    std::vector<std::string> found;
    while (const dirent* entry = ::readdir(entries)) {
        const std::string_view name = entry->d_name;
        if (name == "." || name == ".." || name.starts_with(kEngineFile)) continue;
        struct stat info;
        if (::fstatat(fd, entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0) continue;
        const Kind kind = kind_of(info);
        if (kind == Kind::none) continue;
        if (found.size() == kMaxEntries) {
            ::closedir(entries);
            return Status::error(StatusCode::too_large, "%.*s: more than %zu entries",
                                 static_cast<int>(std::min<std::size_t>(path.size(), 160)),
                                 path.data(), kMaxEntries);
        }
        found.emplace_back(name).append(kind == Kind::folder ? "/" : "");
    }
    ::closedir(entries);
    std::sort(found.begin(), found.end());
    for (const std::string& name : found) names.append(name).push_back('\0');
    return {};
}

Status make_folder(const char* root, std::string_view path) {
    if (const Status status = check_data_path(path); !status.ok()) return status;
    Result<Descriptor> folder = open_root(root, true);
    if (!folder.ok()) return folder.status();
    for (Parts parts(path);; parts.next()) {
        const int parent = folder.value().get();
        if (::mkdirat(parent, parts.name(), 0777) != 0 && errno != EEXIST) return failure(path);
        Descriptor next(uninterrupted(
            [&] { return ::openat(parent, parts.name(), kFolderFlags | O_NOFOLLOW); }));
        if (!next.is_open()) return failure(path);
        folder.value() = std::move(next);
        if (parts.is_last()) return {};
    }
}

// --- bindings ---

const char* root_of(lua_State* L) { return lua_tostring(L, lua_upvalueindex(kFolder)); }

// A path: a number would name a file that nobody meant.
std::string_view check_path(lua_State* L, int index) {
    luaL_checktype(L, index, LUA_TSTRING);
    std::size_t size = 0;
    const char* bytes = lua_tolstring(L, index, &size);
    return {bytes, size};
}

// A string in memory that Lua collects, so that an error of Lua's may jump over it.
std::string& push_buffer(lua_State* L) {
    auto* buffer = new (lua_newuserdata(L, sizeof(std::string))) std::string();
    lua_pushvalue(L, lua_upvalueindex(kBufferMetatable));
    lua_setmetatable(L, -2);
    return *buffer;
}

int buffer_collect(lua_State* L) {
    static_cast<std::string*>(lua_touserdata(L, 1))->~basic_string();
    return 0;
}

// file.read(path, max) -> string | nil, message, code
int file_read(lua_State* L) {
    const std::string_view path = check_path(L, 1);
    const lua_Number most = luaL_optnumber(L, 2, kDefaultRead);
    luaL_argcheck(L, most >= 0 && most <= kMaxFile, 2, "a size from 0 to 67108864");
    std::string& data = push_buffer(L);
    const Status status = read_file(root_of(L), path, static_cast<std::size_t>(most), data);
    if (!status.ok()) return push_error(L, status);
    lua_pushlstring(L, data.data(), data.size());
    std::string().swap(data);
    return 1;
}

// file.read_part(path, from, count) -> string | nil, message, code
int file_read_part(lua_State* L) {
    const std::string_view path = check_path(L, 1);
    const lua_Number from = luaL_checknumber(L, 2);
    const lua_Number count = luaL_checknumber(L, 3);
    luaL_argcheck(L, from >= 0 && from <= 9007199254740991.0, 2, "an offset from 0");
    luaL_argcheck(L, count >= 0 && count <= kDefaultRead, 3, "a size from 0 to 16777216");
    std::string& data = push_buffer(L);
    const Status status = read_part(root_of(L), path, static_cast<std::size_t>(from),
                                    static_cast<std::size_t>(count), data);
    if (!status.ok()) return push_error(L, status);
    lua_pushlstring(L, data.data(), data.size());
    std::string().swap(data);
    return 1;
}

// file.write(path, data) -> true | nil, message, code
int file_write(lua_State* L) {
    const std::string_view path = check_path(L, 1);
    const std::string_view data = check_bytes(L, 2);
    return push_status(L, write_file(root_of(L), path, data));
}

// file.append(path, data) -> true | nil, message, code
int file_append(lua_State* L) {
    const std::string_view path = check_path(L, 1);
    const std::string_view data = check_bytes(L, 2);
    return push_status(L, append_file(root_of(L), path, data));
}

// file.remove(path) -> true | nil, message, code
int file_remove(lua_State* L) { return push_status(L, remove_file(root_of(L), check_path(L, 1))); }

// file.mkdir(path) -> true | nil, message, code
int file_mkdir(lua_State* L) { return push_status(L, make_folder(root_of(L), check_path(L, 1))); }

// file.list(path) -> names | nil, message, code
int file_list(lua_State* L) {
    const std::string_view path = lua_isnoneornil(L, 1) ? "" : check_path(L, 1);
    if (!lua_isnoneornil(L, 1) && path.empty()) return push_error(L, check_data_path(path));
    std::string& names = push_buffer(L);
    const Status status = list_folder(root_of(L), path, names);
    if (!status.ok()) return push_error(L, status);
    lua_newtable(L);
    int count = 0;
    for (std::size_t at = 0; at < names.size(); at = names.find('\0', at) + 1) {
        lua_pushlstring(L, names.data() + at, names.find('\0', at) - at);
        lua_rawseti(L, -2, ++count);
    }
    return 1;
}

// file.exists(path) -> boolean, kind | nil, message, code
int file_exists(lua_State* L) {
    const Result<Found> found = find_file(root_of(L), check_path(L, 1));
    if (!found.ok() && found.status().code() != StatusCode::not_found) {
        return push_error(L, found.status());
    }
    const Kind kind = found.ok() ? found.value().kind : Kind::none;
    lua_pushboolean(L, kind != Kind::none);
    if (kind == Kind::none) return 1;
    lua_pushstring(L, kind == Kind::file ? "file" : "folder");
    return 2;
}

// file.size(path) -> bytes | nil, message, code
int file_size(lua_State* L) {
    const std::string_view path = check_path(L, 1);
    const Result<Found> found = find_file(root_of(L), path);
    if (!found.ok()) return push_error(L, found.status());
    if (found.value().kind != Kind::file) return push_error(L, invalid_path(path, "not a file"));
    lua_pushnumber(L, static_cast<lua_Number>(found.value().size));
    return 1;
}

// file.info(path) -> {kind, size, modified} | nil, message, code
int file_info(lua_State* L) {
    const std::string_view path = check_path(L, 1);
    const Result<Found> found = find_file(root_of(L), path);
    if (!found.ok()) return push_error(L, found.status());
    if (found.value().kind == Kind::none) return push_error(L, invalid_path(path, "not a file"));
    lua_createtable(L, 0, 3);
    lua_pushstring(L, found.value().kind == Kind::file ? "file" : "folder");
    lua_setfield(L, -2, "kind");
    lua_pushnumber(L, static_cast<lua_Number>(found.value().size));
    lua_setfield(L, -2, "size");
    lua_pushnumber(L, found.value().modified);
    lua_setfield(L, -2, "modified");
    return 1;
}

}  // namespace

void push_file_library(lua_State* L, const char* data_folder) {
    static constexpr luaL_Reg kFunctions[] = {
        {"read", file_read},           {"write", file_write}, {"append", file_append},
        {"remove", file_remove},       {"mkdir", file_mkdir}, {"list", file_list},
        {"exists", file_exists},       {"size", file_size},   {"info", file_info},
        {"read_part", file_read_part},
    };
    lua_createtable(L, 0, static_cast<int>(std::size(kFunctions)));
    lua_pushstring(L, data_folder);
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, buffer_collect);
    lua_setfield(L, -2, "__gc");
    for (const luaL_Reg& function : kFunctions) {
        lua_pushvalue(L, -2);
        lua_pushvalue(L, -2);
        lua_pushcclosure(L, function.func, 2);
        lua_setfield(L, -4, function.name);
    }
    lua_pop(L, 2);
}

}  // namespace perilune
