"""Small functions for the task python_basics: dicts. Read by python_basics.py, never imported."""


def get_keys(mapping):
    """returns a list of the keys of a dictionary

    assert get_keys({"a": 1, "b": 2}) == ["a", "b"]
    assert get_keys({}) == []
    assert get_keys({3: 4}) == [3]
    assert get_keys({"b": 1, "a": 2}) == ["b", "a"]
    """
    return list(mapping)


def get_values(mapping):
    """returns a list of the values of a dictionary

    assert get_values({"a": 1, "b": 2}) == [1, 2]
    assert get_values({}) == []
    assert get_values({3: 4}) == [4]
    """
    return list(mapping.values())


def has_both_keys(mapping, first, second):
    """returns True if both first and second are keys of the dictionary mapping

    assert has_both_keys({"a": 1, "b": 2}, "a", "b")
    assert not has_both_keys({"a": 1, "b": 2}, "a", "c")
    assert not has_both_keys({"a": 1, "b": 2}, "c", "b")
    assert not has_both_keys({}, "a", "b")
    """
    return first in mapping and second in mapping


def has_value(mapping, value):
    """returns True if the dictionary mapping has the given value

    assert has_value({"a": 1}, 1)
    assert not has_value({"a": 1}, "a")
    assert not has_value({}, 1)
    """
    return value in mapping.values()


def get_or_zero(mapping, key):
    """returns the value of key in the dictionary mapping, or 0 if it is missing

    assert get_or_zero({"a": 5}, "a") == 5
    assert get_or_zero({"a": 5}, "b") == 0
    assert get_or_zero({}, "x") == 0
    """
    return mapping.get(key, 0)


def count_values_above(mapping, limit):
    """returns how many values of a dictionary are greater than limit

    assert count_values_above({"a": 1, "b": 5, "c": 3}, 2) == 2
    assert count_values_above({"a": 1}, 1) == 0
    assert count_values_above({}, 0) == 0
    assert count_values_above({"a": 7, "b": 8, "c": 9}, 0) == 3
    """
    return sum(value > limit for value in mapping.values())


def sum_of_values(mapping):
    """returns the sum of the values of a dictionary

    assert sum_of_values({"a": 1, "b": 2}) == 3
    assert sum_of_values({}) == 0
    assert sum_of_values({"x": -4}) == -4
    """
    return sum(mapping.values())


def largest_value(mapping):
    """returns the largest value of a dictionary

    assert largest_value({"a": 1, "b": 7}) == 7
    assert largest_value({"x": -4}) == -4
    assert largest_value({"a": 3, "b": 2}) == 3
    """
    return max(mapping.values())


def key_of_largest(mapping):
    """returns the key with the largest value

    assert key_of_largest({"a": 1, "b": 7}) == "b"
    assert key_of_largest({"x": -4}) == "x"
    assert key_of_largest({"a": 3, "b": 2}) == "a"
    """
    return max(mapping, key=mapping.get)


def swap_keys_and_values(mapping):
    """returns a dictionary with the keys and values of mapping swapped

    assert swap_keys_and_values({"a": 1}) == {1: "a"}
    assert swap_keys_and_values({}) == {}
    assert swap_keys_and_values({1: 2, 3: 4}) == {2: 1, 4: 3}
    """
    return {value: key for key, value in mapping.items()}


def merge_dicts(first, second):
    """returns a dictionary with the items of both, where second wins

    assert merge_dicts({"a": 1}, {"b": 2}) == {"a": 1, "b": 2}
    assert merge_dicts({"a": 1}, {"a": 3}) == {"a": 3}
    assert merge_dicts({}, {}) == {}
    """
    return {**first, **second}


def count_items(items):
    """returns a dictionary of how often each item occurs in the list

    assert count_items(["a", "b", "a"]) == {"a": 2, "b": 1}
    assert count_items([]) == {}
    assert count_items([1]) == {1: 1}
    """
    return {item: items.count(item) for item in items}


def count_first_letters(words):
    """returns a dictionary of how many of the words start with each first letter

    assert count_first_letters(["ab", "cd", "ax"]) == {"a": 2, "c": 1}
    assert count_first_letters([]) == {}
    assert count_first_letters(["xx"]) == {"x": 1}
    """
    firsts = [word[0] for word in words]
    return {letter: firsts.count(letter) for letter in firsts}


def word_lengths(words):
    """returns a dictionary of the words and their lengths

    assert word_lengths(["a", "bbb"]) == {"a": 1, "bbb": 3}
    assert word_lengths([]) == {}
    assert word_lengths(["xy"]) == {"xy": 2}
    """
    return {word: len(word) for word in words}


def pairs_to_dict(pairs):
    """returns a dictionary made from a list of (key, value) pairs

    assert pairs_to_dict([("a", 1), ("b", 2)]) == {"a": 1, "b": 2}
    assert pairs_to_dict([]) == {}
    assert pairs_to_dict([(1, 2)]) == {1: 2}
    """
    return dict(pairs)


def zip_to_dict(keys, values):
    """returns a dictionary made from a list of keys and a list of values

    assert zip_to_dict(["a", "b"], [1, 2]) == {"a": 1, "b": 2}
    assert zip_to_dict([], []) == {}
    assert zip_to_dict([1], [2]) == {1: 2}
    """
    return dict(zip(keys, values, strict=True))


def double_values(mapping):
    """returns a dictionary with every value multiplied by two

    assert double_values({"a": 1, "b": 2}) == {"a": 2, "b": 4}
    assert double_values({}) == {}
    assert double_values({"x": -1}) == {"x": -2}
    """
    return {key: 2 * value for key, value in mapping.items()}


def remove_key(mapping, key):
    """returns a dictionary like mapping but without key

    assert remove_key({"a": 1, "b": 2}, "a") == {"b": 2}
    assert remove_key({"a": 1}, "z") == {"a": 1}
    assert remove_key({"a": 1}, "a") == {}
    """
    return {k: v for k, v in mapping.items() if k != key}


def add_item(mapping, key, value):
    """returns a dictionary like mapping with key set to value

    assert add_item({"a": 1}, "b", 2) == {"a": 1, "b": 2}
    assert add_item({}, 1, 2) == {1: 2}
    assert add_item({"a": 1}, "a", 9) == {"a": 9}
    """
    return {**mapping, key: value}


def squares_dict(n):
    """returns a dictionary of the integers from 1 to n and their squares

    assert squares_dict(3) == {1: 1, 2: 4, 3: 9}
    assert squares_dict(1) == {1: 1}
    assert squares_dict(2) == {1: 1, 2: 4}
    """
    return {i: i * i for i in range(1, n + 1)}


def keys_by_value(mapping):
    """returns a list of the keys in increasing order of their values

    assert keys_by_value({"a": 3, "b": 1, "c": 2}) == ["b", "c", "a"]
    assert keys_by_value({}) == []
    assert keys_by_value({"x": 1, "y": 0}) == ["y", "x"]
    """
    return sorted(mapping, key=mapping.get)


def keys_with_value(mapping, value):
    """returns a list of the keys that have the given value

    assert keys_with_value({"a": 1, "b": 2, "c": 1}, 1) == ["a", "c"]
    assert keys_with_value({"a": 1}, 5) == []
    assert keys_with_value({}, 1) == []
    """
    return [k for k, v in mapping.items() if v == value]


def total_price(prices, items):
    """returns the sum of the prices of the items, where prices is a dictionary

    assert total_price({"tea": 2, "cake": 3}, ["tea", "cake"]) == 5
    assert total_price({"tea": 2, "cake": 3}, ["tea", "tea"]) == 4
    assert total_price({"tea": 2}, []) == 0
    """
    return sum(prices[item] for item in items)


def common_items(first, second):
    """returns the set of the items that are in both lists

    assert common_items([1, 2], [2, 3]) == {2}
    assert common_items([1], [2]) == set()
    assert common_items(["a"], ["a"]) == {"a"}
    """
    return set(first) & set(second)


def all_items(first, second):
    """returns the set of the items that are in at least one of two lists

    assert all_items([1, 2], [2, 3]) == {1, 2, 3}
    assert all_items([], [1]) == {1}
    assert all_items([], []) == set()
    """
    return set(first) | set(second)


def only_in_first(first, second):
    """returns the set of the items that are in first but not in second

    assert only_in_first([1, 2], [2, 3]) == {1}
    assert only_in_first([1], [1]) == set()
    assert only_in_first([4, 5], []) == {4, 5}
    """
    return set(first) - set(second)


def unique_items(items):
    """returns the set of the items of a list

    assert unique_items([1, 2, 1]) == {1, 2}
    assert unique_items([]) == set()
    assert unique_items(["a"]) == {"a"}
    """
    return set(items)


def count_unique(items):
    """returns the number of different items of a list

    assert count_unique([1, 2, 1]) == 2
    assert count_unique([]) == 0
    assert count_unique(["a", "a", "a"]) == 1
    """
    return len(set(items))


def is_subset(first, second):
    """returns True if every item of first is in second

    assert is_subset([1], [1, 2])
    assert not is_subset([3], [1, 2])
    assert is_subset([], [1])
    assert is_subset([1, 2], [2, 1])
    assert not is_subset([1, 3], [1, 2])
    """
    return set(first) <= set(second)


def have_common_item(first, second):
    """returns True if two lists have an item in common

    assert have_common_item([1, 2], [2, 3])
    assert not have_common_item([1], [2])
    assert not have_common_item([], [1])
    """
    return bool(set(first) & set(second))


def in_exactly_one(first, second):
    """returns the set of the items that are in exactly one of two lists

    assert in_exactly_one([1, 2], [2, 3]) == {1, 3}
    assert in_exactly_one([1], [1]) == set()
    assert in_exactly_one([], [4, 5]) == {4, 5}
    """
    return set(first) ^ set(second)


def most_common(items):
    """returns the item that occurs most often in the list

    assert most_common([1, 2, 1]) == 1
    assert most_common(["b", "a", "b"]) == "b"
    assert most_common([7]) == 7
    assert most_common([3, 5, 5, 1]) == 5
    """
    return max(items, key=items.count)


def swap_pair(pair):
    """returns the tuple of two items in reverse order

    assert swap_pair((1, 2)) == (2, 1)
    assert swap_pair(("a", "b")) == ("b", "a")
    assert swap_pair((3, 3)) == (3, 3)
    """
    return pair[1], pair[0]


def make_pair(first, second):
    """returns a tuple of first and second

    assert make_pair(1, 2) == (1, 2)
    assert make_pair("a", "b") == ("a", "b")
    assert make_pair(0, None) == (0, None)
    """
    return first, second


def min_and_max(numbers):
    """returns a tuple of the smallest and the largest number of a list

    assert min_and_max([1, 5, 3]) == (1, 5)
    assert min_and_max([2]) == (2, 2)
    assert min_and_max([-1, -3]) == (-3, -1)
    """
    return min(numbers), max(numbers)


def list_to_tuple(items):
    """returns a tuple of the items of a list

    assert list_to_tuple([1, 2]) == (1, 2)
    assert list_to_tuple([]) == ()
    assert list_to_tuple(["a"]) == ("a",)
    """
    return tuple(items)


def pair_difference(pair):
    """returns the first number of the tuple pair minus the second

    assert pair_difference((5, 3)) == 2
    assert pair_difference((3, 5)) == -2
    assert pair_difference((4, 4)) == 0
    """
    return pair[0] - pair[1]


def first_of_pairs(pairs):
    """returns a list of the first items of the pairs

    assert first_of_pairs([(1, 2), (3, 4)]) == [1, 3]
    assert first_of_pairs([]) == []
    assert first_of_pairs([("a", 0)]) == ["a"]
    """
    return [pair[0] for pair in pairs]


def average_value(mapping):
    """returns the average of the values of a dictionary

    assert average_value({"a": 1, "b": 3}) == 2
    assert average_value({"x": 4}) == 4
    assert average_value({"a": 1, "b": 2}) == 1.5
    """
    return sum(mapping.values()) / len(mapping)


def group_by_length(words):
    """returns a dictionary of lengths, each with a list of the words of that length

    assert group_by_length(["a", "bb", "c"]) == {1: ["a", "c"], 2: ["bb"]}
    assert group_by_length([]) == {}
    assert group_by_length(["xy"]) == {2: ["xy"]}
    """
    return {len(word): [w for w in words if len(w) == len(word)] for word in words}
