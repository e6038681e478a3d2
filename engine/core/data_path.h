// Data paths: which files below a node's data folder scripts may name.
//
// Purpose:   the rule for paths that come from scripts, whoever opens them.
// Threads:   any; a pure function.
#pragma once

#include <cstddef>
#include <string_view>

#include "perilune/status.h"

namespace perilune {

inline constexpr std::size_t kMaxDataPath = 1024;
inline constexpr std::size_t kMaxFileName = 255;
// What names of the engine's own files begin with. Scripts neither see nor name them.
inline constexpr std::string_view kEngineFile = ".perilune-";

// ok for "maps/town.json": parts that are names, without "." and "..", control characters and
// kEngineFile. Symbolic links are the opener's to refuse.
Status check_data_path(std::string_view path);

// `why` with the path before it, which is cut.
Status invalid_path(std::string_view path, const char* why);

}  // namespace perilune
