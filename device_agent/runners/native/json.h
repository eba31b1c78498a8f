// A reader for the JSON of a job, and the writing of strings. No more of JSON than that needs.
#pragma once

#include <cctype>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace nasdeploy {

struct Json {
  enum class Kind { null, boolean, number, text, list, object };
  Kind kind = Kind::null;
  bool boolean = false;
  double number = 0;
  std::string text;
  std::vector<Json> list;
  std::map<std::string, Json> object;

  const Json& at(const std::string& name) const {
    auto found = object.find(name);
    if (found == object.end()) throw std::runtime_error("the job has no field " + name);
    return found->second;
  }

  int64_t count(const std::string& name) const {
    const Json& value = at(name);
    if (value.kind != Kind::number || value.number < 0 || value.number > 1e9) {
      throw std::runtime_error("the job's field " + name + " is not a whole number of at least 0");
    }
    return static_cast<int64_t>(value.number);
  }

  const std::string& string(const std::string& name) const {
    const Json& value = at(name);
    if (value.kind != Kind::text) throw std::runtime_error("the job's field " + name + " is no text");
    return value.text;
  }

  const std::vector<Json>& items(const std::string& name) const {
    const Json& value = at(name);
    if (value.kind != Kind::list) throw std::runtime_error("the job's field " + name + " is no list");
    return value.list;
  }
};

class JsonReader {
 public:
  explicit JsonReader(const std::string& text) : text_(text) {}

  Json read() {
    Json value = read_value(0);
    skip_space();
    if (at_ != text_.size()) fail("more text behind the value");
    return value;
  }

 private:
  static constexpr int kDeepest = 16;

  [[noreturn]] void fail(const char* why) const {
    throw std::runtime_error("the job is no JSON: " + std::string(why) + " at byte " +
                             std::to_string(at_));
  }

  void skip_space() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
  }

  char peek() {
    skip_space();
    if (at_ >= text_.size()) fail("it ends too early");
    return text_[at_];
  }

  bool take(char expected) {
    if (peek() != expected) return false;
    ++at_;
    return true;
  }

  void expect(char expected) {
    if (!take(expected)) fail("an unexpected character");
  }

  Json read_value(int depth) {
    if (depth > kDeepest) fail("too deeply nested");
    Json value;
    switch (peek()) {
      case '{':
        value.kind = Json::Kind::object;
        read_object(value, depth);
        break;
      case '[':
        value.kind = Json::Kind::list;
        read_list(value, depth);
        break;
      case '"':
        value.kind = Json::Kind::text;
        value.text = read_text();
        break;
      default:
        read_word(value);
    }
    return value;
  }

  void read_object(Json& value, int depth) {
    expect('{');
    if (take('}')) return;
    do {
      if (peek() != '"') fail("a name belongs here");
      std::string name = read_text();
      expect(':');
      value.object[name] = read_value(depth + 1);
    } while (take(','));
    expect('}');
  }

  void read_list(Json& value, int depth) {
    expect('[');
    if (take(']')) return;
    do {
      value.list.push_back(read_value(depth + 1));
    } while (take(','));
    expect(']');
  }

  void read_word(Json& value) {
    for (const char* word : {"true", "false", "null"}) {
      if (text_.compare(at_, std::string(word).size(), word) == 0) {
        at_ += std::string(word).size();
        value.boolean = word[0] == 't';
        value.kind = word[0] == 'n' ? Json::Kind::null : Json::Kind::boolean;
        return;
      }
    }
    const char* start = text_.c_str() + at_;
    char* end = nullptr;
    value.number = std::strtod(start, &end);
    if (end == start) fail("an unexpected character");
    at_ += static_cast<size_t>(end - start);
    value.kind = Json::Kind::number;
  }

  std::string read_text() {
    std::string result;
    expect('"');
    while (true) {
      if (at_ >= text_.size()) fail("a text has no end");
      char c = text_[at_++];
      if (c == '"') return result;
      if (c != '\\') {
        result += c;
        continue;
      }
      if (at_ >= text_.size()) fail("a text has no end");
      read_escape(result);
    }
  }

  void read_escape(std::string& result) {
    char c = text_[at_++];
    switch (c) {
      case 'n': result += '\n'; break;
      case 't': result += '\t'; break;
      case 'r': result += '\r'; break;
      case 'b': result += '\b'; break;
      case 'f': result += '\f'; break;
      case 'u': append_utf8(result, read_code_point()); break;
      default: result += c;
    }
  }

  uint32_t read_hex() {
    if (at_ + 4 > text_.size()) fail("a text has no end");
    std::string digits = text_.substr(at_, 4);
    char* end = nullptr;
    uint32_t code = static_cast<uint32_t>(std::strtoul(digits.c_str(), &end, 16));
    if (*end != '\0') fail("four hexadecimal digits belong here");
    at_ += 4;
    return code;
  }

  // what lies outside the first plane is written as two of them
  uint32_t read_code_point() {
    uint32_t high = read_hex();
    if (high < 0xD800 || high > 0xDBFF || text_.compare(at_, 2, "\\u") != 0) return high;
    at_ += 2;
    return 0x10000 + ((high - 0xD800) << 10) + (read_hex() - 0xDC00);
  }

  static void append_utf8(std::string& result, uint32_t code) {
    if (code < 0x80) {
      result += static_cast<char>(code);
      return;
    }
    int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    static const unsigned char lead[] = {0, 0xC0, 0xE0, 0xF0};
    result += static_cast<char>(lead[more] | (code >> (6 * more)));
    for (int i = more - 1; i >= 0; --i) {
      result += static_cast<char>(0x80 | ((code >> (6 * i)) & 0x3F));
    }
  }

  const std::string& text_;
  size_t at_ = 0;
};

inline std::string json_text(const std::string& text) {
  std::string result = "\"";
  for (unsigned char c : text) {
    if (c == '"' || c == '\\') {
      result += '\\';
      result += static_cast<char>(c);
    } else if (c < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", c);
      result += escape;
    } else {
      result += static_cast<char>(c);
    }
  }
  return result + "\"";
}

}  // namespace nasdeploy
