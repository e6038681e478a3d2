#include "core/data_path.h"

#include <algorithm>

namespace perilune {

Status invalid_path(std::string_view path, const char* why) {
    return Status::error(StatusCode::invalid, "%.*s: %s",
                         static_cast<int>(std::min<std::size_t>(path.size(), 160)), path.data(),
                         why);
}

Status check_data_path(std::string_view path) {
    if (path.empty()) return Status::error(StatusCode::invalid, "an empty path");
    if (path.size() > kMaxDataPath) return invalid_path(path, "a path of more than 1024 bytes");
    for (const char c : path) {
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
            return Status::error(StatusCode::invalid, "a path with control characters");
        }
    }
    if (path.front() == '/') return invalid_path(path, "paths begin in the data folder");
    for (std::size_t at = 0; at <= path.size();) {
        const std::string_view part = path.substr(at, path.find('/', at) - at);
        if (part.empty()) return invalid_path(path, "an empty name");
        if (part == "." || part == "..")
            return invalid_path(path, "\".\" and \"..\" can't be used");
        if (part.size() > kMaxFileName) return invalid_path(path, "a name of more than 255 bytes");
        if (part.starts_with(kEngineFile)) return invalid_path(path, "a reserved name");
        at += part.size() + 1;
    }
    return {};
}

}  // namespace perilune
