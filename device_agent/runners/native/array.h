// float32 arrays, numpy's .npy files of them, and how they are quantised.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <limits>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace nasdeploy {

using Shape = std::vector<int64_t>;

inline int64_t element_count(const Shape& shape) {
  int64_t count = 1;
  for (int64_t size : shape) count *= size;
  return count;
}

inline std::string shown(const Shape& shape) {
  std::ostringstream text;
  text << "(";
  for (size_t i = 0; i < shape.size(); ++i) text << (i ? ", " : "") << shape[i];
  text << ")";
  return text.str();
}

struct Array {
  Shape shape;
  std::vector<float> values;

  // image number i as an array with a batch dimension of 1
  Array image(int64_t i) const {
    Array part;
    part.shape = shape;
    part.shape[0] = 1;
    int64_t size = element_count(part.shape);
    part.values.assign(values.begin() + i * size, values.begin() + (i + 1) * size);
    return part;
  }

  void append(const Array& other) {
    if (shape.empty() && values.empty()) {
      *this = other;
      return;
    }
    shape[0] += other.shape[0];
    values.insert(values.end(), other.values.begin(), other.values.end());
  }
};

// numpy's format 1.0 or 2.0, little-endian float32 in C order, as numpy.save writes it
inline Array read_npy(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("there is no file " + path);
  char magic[8];
  if (!file.read(magic, 8) || std::memcmp(magic, "\x93NUMPY", 6) != 0) {
    throw std::runtime_error(path + " is no .npy file");
  }
  unsigned char size_bytes[4] = {0, 0, 0, 0};
  file.read(reinterpret_cast<char*>(size_bytes), magic[6] == 1 ? 2 : 4);
  uint32_t header_size = size_bytes[0] | size_bytes[1] << 8 | size_bytes[2] << 16;
  std::string header(header_size, '\0');
  file.read(header.data(), header_size);
  if (!file || header.find("'<f4'") == std::string::npos ||
      header.find("'fortran_order': False") == std::string::npos) {
    throw std::runtime_error(path + " does not hold float32 values in C order");
  }
  size_t open = header.find('('), close = header.find(')');
  if (open == std::string::npos || close == std::string::npos) {
    throw std::runtime_error(path + " has no shape");
  }
  Array array;
  std::istringstream sizes(header.substr(open + 1, close - open - 1));
  for (std::string size; std::getline(sizes, size, ',');) {
    if (size.find_first_not_of(' ') != std::string::npos) array.shape.push_back(std::stoll(size));
  }
  if (array.shape.empty()) throw std::runtime_error(path + " has no batch dimension");
  array.values.resize(element_count(array.shape));
  file.read(reinterpret_cast<char*>(array.values.data()),
            static_cast<std::streamsize>(array.values.size() * sizeof(float)));
  if (!file) throw std::runtime_error(path + " is cut short");
  return array;
}

// beside the path first, so that a file of that name is a whole one
inline void write_npy(const std::string& path, const Array& array) {
  std::ostringstream described;
  described << "{'descr': '<f4', 'fortran_order': False, 'shape': (";
  for (int64_t size : array.shape) described << size << ",";
  described << "), }";
  std::string header = described.str();
  header.append(63 - (10 + header.size()) % 64, ' ');
  header += '\n';
  std::string temporary = path + ".part";
  {
    std::ofstream file(temporary, std::ios::binary);
    file.write("\x93NUMPY\x01\x00", 8);
    file.put(static_cast<char>(header.size() & 0xFF)).put(static_cast<char>(header.size() >> 8));
    file << header;
    file.write(reinterpret_cast<const char*>(array.values.data()),
               static_cast<std::streamsize>(array.values.size() * sizeof(float)));
    file.flush();
    if (!file) {
      std::remove(temporary.c_str());
      throw std::runtime_error(path + " could not be written; is the disk full?");
    }
  }
  if (std::rename(temporary.c_str(), path.c_str()) != 0) {
    throw std::runtime_error(path + " could not be put in its place");
  }
}

enum class Type { float32, int8, uint8, int32, int64, boolean };

inline size_t size_of(Type type) {
  switch (type) {
    case Type::int8:
    case Type::uint8:
    case Type::boolean: return 1;
    case Type::int64: return 8;
    default: return 4;
  }
}

struct Quantisation {
  double scale = 0;
  int64_t zero_point = 0;
};

// seeded noise over the type's range: some kernels are faster on zeros
template <typename T>
void fill_whole(void* memory, int64_t count, std::mt19937_64& random) {
  T* values = static_cast<T*>(memory);
  for (int64_t i = 0; i < count; ++i) values[i] = static_cast<T>(random());
}

inline void fill_with_noise(void* memory, Type type, int64_t count) {
  std::mt19937_64 random(0);
  switch (type) {
    case Type::float32: {
      std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
      float* values = static_cast<float*>(memory);
      for (int64_t i = 0; i < count; ++i) values[i] = uniform(random);
      break;
    }
    case Type::int8: fill_whole<int8_t>(memory, count, random); break;
    case Type::uint8: fill_whole<uint8_t>(memory, count, random); break;
    case Type::int32: fill_whole<int32_t>(memory, count, random); break;
    case Type::int64: fill_whole<int64_t>(memory, count, random); break;
    case Type::boolean:
      for (int64_t i = 0; i < count; ++i) static_cast<uint8_t*>(memory)[i] = random() & 1;
  }
}

// halves go to the even neighbour, as numpy rounds them
template <typename T>
void quantise(const std::vector<float>& real, Quantisation by, void* memory) {
  const double lowest = std::numeric_limits<T>::min(), highest = std::numeric_limits<T>::max();
  T* stored = static_cast<T*>(memory);
  const float scale = static_cast<float>(by.scale);
  for (size_t i = 0; i < real.size(); ++i) {
    double value = std::nearbyint(real[i] / scale) + static_cast<double>(by.zero_point);
    stored[i] = static_cast<T>(std::min(std::max(value, lowest), highest));
  }
}

template <typename T>
void dequantise(const void* memory, Quantisation by, std::vector<float>& real) {
  const T* stored = static_cast<const T*>(memory);
  const float scale = static_cast<float>(by.scale);
  for (size_t i = 0; i < real.size(); ++i) {
    real[i] = (static_cast<float>(stored[i]) - static_cast<float>(by.zero_point)) * scale;
  }
}

// float32 values into a tensor of the model's own type
inline void store(const Array& array, Type type, Quantisation by, void* memory) {
  switch (type) {
    case Type::float32:
      std::memcpy(memory, array.values.data(), array.values.size() * sizeof(float));
      break;
    case Type::int8: quantise<int8_t>(array.values, by, memory); break;
    case Type::uint8: quantise<uint8_t>(array.values, by, memory); break;
    default: throw std::runtime_error("only float32, int8 and uint8 inputs can be given");
  }
}

// a tensor of the model's own type as float32 values
inline Array fetch(const void* memory, Type type, Quantisation by, const Shape& shape) {
  Array array{shape, std::vector<float>(static_cast<size_t>(element_count(shape)))};
  switch (type) {
    case Type::float32:
      std::memcpy(array.values.data(), memory, array.values.size() * sizeof(float));
      break;
    case Type::int8: dequantise<int8_t>(memory, by, array.values); break;
    case Type::uint8: dequantise<uint8_t>(memory, by, array.values); break;
    default: throw std::runtime_error("only float32, int8 and uint8 outputs can be fetched");
  }
  return array;
}

inline void check_input(const Array& array, const Shape& wanted, size_t number) {
  if (array.shape != wanted) {
    throw std::runtime_error("input " + std::to_string(number) + " has the shape " +
                             shown(array.shape) + " where " + shown(wanted) + " belongs");
  }
}

}  // namespace nasdeploy
