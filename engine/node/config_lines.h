// ConfigLines: on which line of config.lua a key stands.
//
// Purpose:   messages that name a line. Reads the text of the table constructor that the file
//            returns, with a tokenizer of its own; what is computed elsewhere has the line of the
//            innermost table that it knows.
// Threads:   constant once built.
// Ownership: owns what it found; refers to nothing.
//
// A path is written as in Lua, from the outermost table on: log.level, services[3].options.port,
// env["a b"].
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace perilune {

class ConfigLines {
  public:
    // `text` parses as Lua; of text that doesn't, some lines are found.
    explicit ConfigLines(std::string_view text);

    // The line of a path, or of the innermost known one around it; 1 at least.
    int line(std::string_view path) const;

    // Keys that a constructor gives twice: Lua silently takes the last.
    struct Repeated {
        std::string path;
        int line;
        int first_line;
    };
    const std::vector<Repeated>& repeated() const { return repeated_; }

    // All that were found, with their lines.
    const std::map<std::string, int, std::less<>>& all() const { return lines_; }

  private:
    class Parser;

    int root_line_ = 1;
    std::map<std::string, int, std::less<>> lines_;
    std::vector<Repeated> repeated_;
};

}  // namespace perilune
