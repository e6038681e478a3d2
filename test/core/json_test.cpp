// Tests of JsonCursor: what is JSON, and what it says.
#include "game/json.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

namespace perilune {
namespace {

bool is_json(const std::string& text) { return JsonCursor(text).check(); }

std::string why(const std::string& text) {
    JsonCursor json(text);
    return json.check() ? "is JSON" : json.why();
}

std::string string_of(const std::string& text) {
    JsonCursor json(text);
    EXPECT_TRUE(json.check()) << text;
    EXPECT_EQ(json.peek(), '"');
    std::string unescaped;
    return std::string(json.string(unescaped));
}

double number_of(const std::string& text) {
    JsonCursor json(text);
    EXPECT_TRUE(json.check()) << text;
    json.peek();
    return json.number();
}

TEST(Json, every_value_is_taken) {
    for (const char* text : {"null",
                             "true",
                             "false",
                             "0",
                             "-0",
                             "12",
                             "-1.5e+3",
                             "1E5",
                             "0.5",
                             "\"\"",
                             "\"a\"",
                             "[]",
                             "{}",
                             "[1,[2,{}],\"x\"]",
                             "{\"a\":1,\"b\":{\"c\":[null]}}",
                             " \t\r\n{ \"a\" : [ 1 , 2 ] } ",
                             "9007199254740992",
                             "-9007199254740992",
                             "90071992547409930.0",
                             "1e999"}) {
        EXPECT_EQ(why(text), "is JSON") << text;
    }
}

TEST(Json, what_isnt_json_is_told_with_its_reason) {
    const std::pair<const char*, const char*> cases[] = {
        {"", "is cut off"},
        {"  ", "is cut off"},
        {"[", "is cut off"},
        {"[1", "is cut off"},
        {"{\"a\":", "is cut off"},
        {"1 2", "has something behind its value"},
        {"{} x", "has something behind its value"},
        {"{a:1}", "has a key that is no string"},
        {"{\"a\":1,}", "has a key that is no string"},
        {"{\"a\" 1}", "has a key without a colon"},
        {"[1 2]", "has a value without a comma or an end"},
        {"[1}", "has a value without a comma or an end"},
        {"[1,]", "has what is no value"},
        {"nul", "has what is no value"},
        {"NaN", "has what is no value"},
        {"-", "has what is no value"},
        {"+1", "has what is no value"},
        {".5", "has what is no value"},
        {"'a'", "has what is no value"},
        {"01", "has a number that begins with 0"},
        {"-00", "has a number that begins with 0"},
        {"0x10", "has something behind its value"},
        {"1.", "has a number without a digit behind its point"},
        {"1e", "has a number without a digit in its exponent"},
        {"1e+", "has a number without a digit in its exponent"},
        {"9007199254740993", "has an integer beyond 2^53"},
        {"-10000000000000000", "has an integer beyond 2^53"},
        {"\"a", "has a string that doesn't end"},
        {"\"\\", "has a string with a wrong escape"},
        {"\"\\x\"", "has a string with a wrong escape"},
        {"\"\\u12g4\"", "has a string with a wrong escape"},
        {"\"\\u-123\"", "has a string with a wrong escape"},
        {"\"\\u123\"", "has a string with a wrong escape"},
        {"\"\\ud800\"", "has a string with a wrong escape"},
        {"\"\\ud800\\u0041\"", "has a string with a wrong escape"},
        {"\"\\udc00\"", "has a string with a wrong escape"},
    };
    for (const auto& [text, reason] : cases) EXPECT_EQ(why(text), reason) << text;
    EXPECT_EQ(why(std::string("\"\0\"", 3)), "has a string with a NUL");
    EXPECT_EQ(why("\"\t\n\x01\""), "is JSON") << "old clients send these as they are";
}

TEST(Json, nesting_is_limited) {
    const auto nested = [](int depth) {
        const auto count = static_cast<std::size_t>(depth);
        return std::string(count, '[') + std::string(count, ']');
    };
    EXPECT_TRUE(is_json(nested(kMaxJsonDepth)));
    EXPECT_FALSE(is_json(nested(kMaxJsonDepth + 2)));
    EXPECT_EQ(why(std::string(100'000, '[')), "is nested too deep");
    EXPECT_EQ(why(std::string(100'000, '{')), "has a key that is no string");
}

TEST(Json, strings_are_unescaped) {
    EXPECT_EQ(string_of("\"plain\""), "plain");
    EXPECT_EQ(string_of(R"("\"\\\/\b\f\n\r\t")"), "\"\\/\b\f\n\r\t");
    EXPECT_EQ(string_of(R"("a\u0041\u00fc\u4e00\ud83d\ude00z")"),
              "aA\xc3\xbc\xe4\xb8\x80\xf0\x9f\x98\x80z");
    EXPECT_EQ(string_of(R"("\u0000")"), std::string(1, '\0'));
}

TEST(Json, numbers_are_what_they_say) {
    EXPECT_EQ(number_of("0"), 0);
    EXPECT_TRUE(std::signbit(number_of("-0")));
    EXPECT_EQ(number_of("-9007199254740992"), -9007199254740992.0);
    EXPECT_EQ(number_of("90071992547409930.0"), 90071992547409930.0);
    EXPECT_EQ(number_of("123456789012345678.25"), 123456789012345678.25);
    EXPECT_EQ(number_of("-1.5e3"), -1500);
    EXPECT_EQ(number_of("1E-2"), 0.01);
    EXPECT_EQ(number_of("1e999"), HUGE_VAL);
    EXPECT_EQ(number_of("-1e999"), -HUGE_VAL);
    EXPECT_EQ(number_of("1e-999"), 0);
}

TEST(Json, what_was_checked_is_walked_through) {
    const std::string text = R"( { "a" : [ 1 , "]\"}" , {} ] , "b":{"c":true}, "n" : -2 } tail)";
    JsonCursor json(std::string_view(text).substr(0, text.size() - 4));
    ASSERT_TRUE(json.check());
    std::string scratch;
    std::string seen;
    ASSERT_EQ(json.peek(), '{');
    json.enter();
    for (bool first = true; json.next('}', first); first = false) {
        const std::string key(json.key(scratch));
        const char* const begin = (json.peek(), json.at());
        json.skip();
        seen += key + "=" + std::string(begin, json.at()) + ";";
    }
    EXPECT_EQ(seen, R"(a=[ 1 , "]\"}" , {} ];b={"c":true};n=-2;)");
}

}  // namespace
}  // namespace perilune
