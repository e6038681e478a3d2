#include "node/config_lines.h"

#include <cctype>
#include <cstdlib>
#include <optional>

#include "lua/config_script.h"

namespace perilune {

namespace {

enum class TokenKind { name, string, number, symbol, end };

struct Token {
    TokenKind kind;
    std::string text;  // of a string: what is in it, escapes left as they are
    int line;
};

class Lexer {
  public:
    explicit Lexer(std::string_view text) : text_(text) {
        if (peek() == '#') skip_line();
    }

    Token next() {
        skip_blanks();
        const int line = line_;
        if (at_ >= text_.size()) return {TokenKind::end, "", line};
        const char c = peek();
        if (std::isalpha(static_cast<unsigned char>(c)) || c == '_') {
            return {TokenKind::name, take_word(), line};
        }
        if (std::isdigit(static_cast<unsigned char>(c)) ||
            (c == '.' && std::isdigit(static_cast<unsigned char>(peek(1))))) {
            return {TokenKind::number, take_number(), line};
        }
        if (c == '"' || c == '\'') return {TokenKind::string, take_quoted(), line};
        if (const std::optional<std::size_t> level = long_bracket()) {
            return {TokenKind::string, take_long(*level), line};
        }
        for (const std::string_view longer : {"...", "..", "==", "~=", "<=", ">=", "::"}) {
            if (text_.substr(at_, longer.size()) != longer) continue;
            at_ += longer.size();
            return {TokenKind::symbol, std::string(longer), line};
        }
        ++at_;
        return {TokenKind::symbol, std::string(1, c), line};
    }

  private:
    char peek(std::size_t ahead = 0) const {
        return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
    }

    void advance() {
        if (text_[at_] == '\n') ++line_;
        ++at_;
    }

    void skip_line() {
        while (at_ < text_.size() && peek() != '\n') ++at_;
    }

    void skip_blanks() {
        while (at_ < text_.size()) {
            if (std::isspace(static_cast<unsigned char>(peek()))) {
                advance();
            } else if (peek() == '-' && peek(1) == '-') {
                at_ += 2;
                if (const std::optional<std::size_t> level = long_bracket()) {
                    take_long(*level);
                } else {
                    skip_line();
                }
            } else {
                return;
            }
        }
    }

    // The number of = between the brackets when a long string begins here.
    std::optional<std::size_t> long_bracket() const {
        if (peek() != '[') return std::nullopt;
        std::size_t level = 0;
        while (peek(1 + level) == '=') ++level;
        if (peek(1 + level) != '[') return std::nullopt;
        return level;
    }

    std::string take_long(std::size_t level) {
        const std::string closing = "]" + std::string(level, '=') + "]";
        at_ += level + 2;
        const std::size_t begin = at_;
        while (at_ < text_.size() && text_.substr(at_, closing.size()) != closing) advance();
        const std::string content(text_.substr(begin, at_ - begin));
        at_ = std::min(text_.size(), at_ + closing.size());
        return content;
    }

    std::string take_word() {
        const std::size_t begin = at_;
        while (std::isalnum(static_cast<unsigned char>(peek())) || peek() == '_') ++at_;
        return std::string(text_.substr(begin, at_ - begin));
    }

    std::string take_number() {
        const std::size_t begin = at_;
        while (std::isalnum(static_cast<unsigned char>(peek())) || peek() == '.' ||
               ((peek() == '+' || peek() == '-') &&
                std::string_view("eEpP").find(text_[at_ - 1]) != std::string_view::npos)) {
            ++at_;
        }
        return std::string(text_.substr(begin, at_ - begin));
    }

    std::string take_quoted() {
        const char quote = peek();
        ++at_;
        const std::size_t begin = at_;
        while (at_ < text_.size() && peek() != quote) {
            if (peek() == '\\' && at_ + 1 < text_.size()) advance();
            advance();
        }
        const std::string content(text_.substr(begin, at_ - begin));
        if (at_ < text_.size()) ++at_;
        return content;
    }

    const std::string_view text_;
    std::size_t at_ = 0;
    int line_ = 1;
};

bool is_symbol(const Token& token, std::string_view text) {
    return token.kind == TokenKind::symbol && token.text == text;
}

bool is_word(const Token& token, std::string_view text) {
    return token.kind == TokenKind::name && token.text == text;
}

// How many levels of brackets and blocks a token opens, or closes.
int opens(const Token& token) {
    if (token.kind == TokenKind::symbol && token.text.size() == 1) {
        if (std::string_view("({[").find(token.text[0]) != std::string_view::npos) return 1;
        if (std::string_view(")}]").find(token.text[0]) != std::string_view::npos) return -1;
    }
    if (token.kind == TokenKind::name) {
        for (const std::string_view word : {"function", "do", "if", "repeat"}) {
            if (token.text == word) return 1;
        }
        if (token.text == "end" || token.text == "until") return -1;
    }
    return 0;
}

}  // namespace

class ConfigLines::Parser {
  public:
    Parser(std::string_view text, ConfigLines& lines) : lines_(lines) {
        Lexer lexer(text);
        do {
            tokens_.push_back(lexer.next());
        } while (tokens_.back().kind != TokenKind::end);
    }

    // The table behind the last `return` that is in no function.
    void parse_file() {
        std::size_t table = tokens_.size();
        int depth = 0;
        for (std::size_t i = 0; i + 1 < tokens_.size(); ++i) {
            depth += opens(tokens_[i]);
            if (depth == 0 && is_word(tokens_[i], "return") && is_symbol(tokens_[i + 1], "{")) {
                table = i + 1;
            }
        }
        if (table == tokens_.size()) return;
        at_ = table;
        lines_.root_line_ = now().line;
        parse_table("");
    }

  private:
    const Token& now() const { return tokens_[at_]; }
    const Token& ahead(std::size_t count) const {
        return tokens_[std::min(at_ + count, tokens_.size() - 1)];
    }
    bool at_end() const { return now().kind == TokenKind::end; }

    void parse_table(const std::string& path) {
        ++at_;  // the {
        int index = 0;
        while (!at_end() && !is_symbol(now(), "}")) {
            const int line = now().line;
            std::string step;
            bool named = true;
            if (now().kind == TokenKind::name && is_symbol(ahead(1), "=")) {
                step = path_step(now().text);
                at_ += 2;
            } else if (is_symbol(now(), "[") && is_symbol(ahead(2), "]") &&
                       is_symbol(ahead(3), "=")) {
                step = now_key(ahead(1));
                at_ += 4;
            } else if (!is_symbol(now(), "[")) {
                step = path_step(++index);
                named = false;
            }  // else a computed key: unknown
            if (!step.empty()) {
                const std::string inner = joined(path, step);
                note(inner, line, named);
                if (is_symbol(now(), "{")) parse_table(inner);
            }
            skip_expression();
            if (is_symbol(now(), ",") || is_symbol(now(), ";")) ++at_;
        }
        if (!at_end()) ++at_;  // the }
    }

    static std::string now_key(const Token& key) {
        if (key.kind == TokenKind::string) return path_step(key.text);
        if (key.kind == TokenKind::number) {
            return path_step(std::strtod(key.text.c_str(), nullptr));
        }
        return {};
    }

    static std::string joined(const std::string& path, const std::string& step) {
        if (!path.empty() || step[0] != '.') return path + step;
        return step.substr(1);
    }

    void note(const std::string& path, int line, bool named) {
        const auto [place, is_new] = lines_.lines_.try_emplace(path, line);
        if (is_new) return;
        if (named) lines_.repeated_.push_back({path, line, place->second});
        place->second = line;
    }

    // To the comma or brace that ends the value.
    void skip_expression() {
        int depth = 0;
        for (; !at_end(); ++at_) {
            if (depth == 0 &&
                (is_symbol(now(), ",") || is_symbol(now(), ";") || is_symbol(now(), "}"))) {
                return;
            }
            depth += opens(now());
        }
    }

    ConfigLines& lines_;
    std::vector<Token> tokens_;
    std::size_t at_ = 0;
};

ConfigLines::ConfigLines(std::string_view text) { Parser(text, *this).parse_file(); }

int ConfigLines::line(std::string_view path) const {
    while (!path.empty()) {
        const auto found = lines_.find(path);
        if (found != lines_.end()) return found->second;
        const std::size_t cut = path.find_last_of(".[");
        if (cut == std::string_view::npos) break;
        path = path.substr(0, cut);
    }
    return root_line_;
}

}  // namespace perilune
