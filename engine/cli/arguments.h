// Arguments: the words of a command line.
//
// Purpose:   names and values of options, and what is left.
// Threads:   one.
// Ownership: copies the words.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace perilune::cli {

class Arguments {
  public:
    Arguments(int count, char** words) : words_(words, words + count) {}

    // The value of --name, given as "--name value" or "--name=value", which is taken out; or the
    // fallback.
    std::string text(const std::string& name, const std::string& fallback = {});
    std::int64_t number(const std::string& name, std::int64_t fallback, std::int64_t minimum,
                        std::int64_t maximum);
    // Whether --name stands there (-n for one letter); it is taken out.
    bool flag(const std::string& name);

    // What is left, once all options have been asked for.
    const std::vector<std::string>& rest() const { return words_; }

    // What is wrong, in one line; "" when nothing is. With `strict` options that are left are.
    std::string problem(bool strict = true) const;

  private:
    bool take(const std::string& name, std::string& value);

    std::vector<std::string> words_;
    std::string problem_;
};

}  // namespace perilune::cli
