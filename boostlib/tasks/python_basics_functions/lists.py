"""Small functions for the task python_basics: lists. Read by python_basics.py, never imported."""


def sum_of_list(numbers):
    """returns the sum of a list of numbers

    assert sum_of_list([1, 2, 3]) == 6
    assert sum_of_list([]) == 0
    assert sum_of_list([-1, 1, 5]) == 5
    """
    return sum(numbers)


def product_of_list(numbers):
    """returns the product of a list of numbers

    assert product_of_list([1, 2, 3]) == 6
    assert product_of_list([4, 5]) == 20
    assert product_of_list([7, 0]) == 0
    """
    result = 1
    for number in numbers:
        result *= number
    return result


def largest(numbers):
    """returns the largest number of a list

    assert largest([1, 5, 3]) == 5
    assert largest([-2, -7]) == -2
    assert largest([4]) == 4
    assert largest([9, 2, 5]) == 9
    """
    return max(numbers)


def smallest(numbers):
    """returns the smallest number of a list

    assert smallest([4, 1, 3]) == 1
    assert smallest([-2, -7]) == -7
    assert smallest([4]) == 4
    assert smallest([2, 5, 9]) == 2
    """
    return min(numbers)


def average(numbers):
    """returns the average of a list of numbers

    assert average([1, 2, 3]) == 2
    assert average([4]) == 4
    assert average([1, 2]) == 1.5
    """
    return sum(numbers) / len(numbers)


def count_between(numbers, low, high):
    """returns how many of the numbers are at least low and at most high

    assert count_between([1, 5, 9], 2, 8) == 1
    assert count_between([2, 8, 1], 2, 8) == 2
    assert count_between([], 0, 1) == 0
    """
    return sum(low <= n <= high for n in numbers)


def first_element(items):
    """returns the first element of a list

    assert first_element([1, 2, 3]) == 1
    assert first_element(["a"]) == "a"
    assert first_element([5, 4]) == 5
    """
    return items[0]


def last_element(items):
    """returns the last element of a list

    assert last_element([1, 2, 3]) == 3
    assert last_element(["a"]) == "a"
    assert last_element([5, 4]) == 4
    """
    return items[-1]


def swap_ends(items):
    """returns a list of at least two items with its first and last item swapped

    assert swap_ends([1, 2, 3]) == [3, 2, 1]
    assert swap_ends(["a", "b"]) == ["b", "a"]
    assert swap_ends([1, 2, 3, 4]) == [4, 2, 3, 1]
    """
    return [items[-1]] + items[1:-1] + [items[0]]


def sort_list(numbers):
    """returns a list of the numbers in increasing order

    assert sort_list([3, 1, 2]) == [1, 2, 3]
    assert sort_list([]) == []
    assert sort_list([5, -1]) == [-1, 5]
    """
    return sorted(numbers)


def sort_descending(numbers):
    """returns a list of the numbers in decreasing order

    assert sort_descending([3, 1, 2]) == [3, 2, 1]
    assert sort_descending([]) == []
    assert sort_descending([-1, 5]) == [5, -1]
    """
    return sorted(numbers, reverse=True)


def even_numbers(numbers):
    """returns a list of the even numbers of a list

    assert even_numbers([1, 2, 3, 4]) == [2, 4]
    assert even_numbers([1, 3]) == []
    assert even_numbers([0, 5]) == [0]
    """
    return [n for n in numbers if n % 2 == 0]


def odd_numbers(numbers):
    """returns a list of the odd numbers of a list

    assert odd_numbers([1, 2, 3, 4]) == [1, 3]
    assert odd_numbers([2, 4]) == []
    assert odd_numbers([5]) == [5]
    """
    return [n for n in numbers if n % 2 == 1]


def positive_numbers(numbers):
    """returns a list of the numbers greater than zero

    assert positive_numbers([1, -2, 3]) == [1, 3]
    assert positive_numbers([-1, 0]) == []
    assert positive_numbers([5]) == [5]
    """
    return [n for n in numbers if n > 0]


def count_positive(numbers):
    """returns how many numbers of a list are greater than zero

    assert count_positive([1, -2, 3]) == 2
    assert count_positive([-1, 0]) == 0
    assert count_positive([]) == 0
    """
    return sum(n > 0 for n in numbers)


def count_even(numbers):
    """returns how many numbers of a list are even

    assert count_even([1, 2, 4]) == 2
    assert count_even([1, 3]) == 0
    assert count_even([0]) == 1
    """
    return sum(n % 2 == 0 for n in numbers)


def sum_of_even(numbers):
    """returns the sum of the even numbers of a list

    assert sum_of_even([1, 2, 4]) == 6
    assert sum_of_even([1, 3]) == 0
    assert sum_of_even([8]) == 8
    """
    return sum(n for n in numbers if n % 2 == 0)


def square_all(numbers):
    """returns a list of the squares of the numbers

    assert square_all([1, 2, 3]) == [1, 4, 9]
    assert square_all([]) == []
    assert square_all([-2]) == [4]
    """
    return [n * n for n in numbers]


def double_all(numbers):
    """returns a list of the numbers multiplied by two

    assert double_all([1, 2, 3]) == [2, 4, 6]
    assert double_all([]) == []
    assert double_all([-2]) == [-4]
    """
    return [2 * n for n in numbers]


def add_to_all(numbers, k):
    """returns a list of the numbers, each increased by k

    assert add_to_all([1, 2], 3) == [4, 5]
    assert add_to_all([], 1) == []
    assert add_to_all([0], -1) == [-1]
    """
    return [n + k for n in numbers]


def all_positive(numbers):
    """returns True if every number of a list is greater than zero

    assert all_positive([1, 2])
    assert not all_positive([1, 0, 2])
    assert not all_positive([-1, 5])
    assert not all_positive([5, -1])
    """
    return all(n > 0 for n in numbers)


def without_ends(items):
    """returns a list of the items without the first and the last one

    assert without_ends([1, 2, 5]) == [2]
    assert without_ends([4, 6, 7, 4]) == [6, 7]
    assert without_ends(["a", "b"]) == []
    """
    return items[1:-1]


def index_of(items, item):
    """returns the index of the first occurrence of item in the list items

    assert index_of([5, 6, 7], 6) == 1
    assert index_of(["a", "b", "a"], "a") == 0
    assert index_of([1, 2, 3], 3) == 2
    """
    return items.index(item)


def remove_item(items, item):
    """returns a list of the items without any that equals item

    assert remove_item([1, 2, 1], 1) == [2]
    assert remove_item([1, 2], 3) == [1, 2]
    assert remove_item([4, 4], 4) == []
    """
    return [i for i in items if i != item]


def remove_duplicates(items):
    """returns a list with only the first occurrence of every item, in the same order

    assert remove_duplicates([1, 2, 1]) == [1, 2]
    assert remove_duplicates([]) == []
    assert remove_duplicates([3, 3, 1, 3]) == [3, 1]
    """
    return list(dict.fromkeys(items))


def has_duplicates(items):
    """returns True if any item occurs more than once

    assert has_duplicates([1, 2, 1])
    assert not has_duplicates([1, 2])
    assert not has_duplicates([])
    """
    return len(set(items)) < len(items)


def rotate_left(items):
    """returns a list with the first item moved to the end

    assert rotate_left([1, 2, 3]) == [2, 3, 1]
    assert rotate_left(["a", "b"]) == ["b", "a"]
    assert rotate_left([5]) == [5]
    """
    return items[1:] + items[:1]


def first_n(items, n):
    """returns a list of the first n items

    assert first_n([1, 2, 3], 2) == [1, 2]
    assert first_n([1, 2], 0) == []
    assert first_n([5, 6], 1) == [5]
    """
    return items[:n]


def last_n(items, n):
    """returns a list of the last n items, where n is at least 1

    assert last_n([1, 2, 3], 2) == [2, 3]
    assert last_n([1, 2], 1) == [2]
    assert last_n([5, 6], 2) == [5, 6]
    """
    return items[-n:]


def second_largest(numbers):
    """returns the second largest number of a list of different numbers

    assert second_largest([1, 5, 3]) == 3
    assert second_largest([2, 1]) == 1
    assert second_largest([4, 9, 7, 8]) == 8
    assert second_largest([9, 8, 1]) == 8
    """
    return sorted(numbers)[-2]


def is_sorted(numbers):
    """returns True if the numbers are in increasing order

    assert is_sorted([1, 2, 5])
    assert not is_sorted([1, 3, 2])
    assert not is_sorted([3, 1])
    assert is_sorted([4])
    """
    return numbers == sorted(numbers)


def all_equal(items):
    """returns True if all items of the list are equal

    assert all_equal([1, 1, 1])
    assert not all_equal([1, 2, 1])
    assert all_equal([3])
    assert not all_equal([1, 1, 2])
    """
    return len(set(items)) <= 1


def range_of(numbers):
    """returns the difference of the largest and the smallest number of a list

    assert range_of([1, 5, 3]) == 4
    assert range_of([2]) == 0
    assert range_of([-1, 1]) == 2
    """
    return max(numbers) - min(numbers)


def count_greater(numbers, k):
    """returns how many of the numbers are greater than k

    assert count_greater([1, 5, 3], 2) == 2
    assert count_greater([1], 1) == 0
    assert count_greater([7, 8, 9], 0) == 3
    """
    return sum(n > k for n in numbers)


def longest_string(words):
    """returns the longest string of a list

    assert longest_string(["a", "bbb", "cc"]) == "bbb"
    assert longest_string(["xy"]) == "xy"
    assert longest_string(["one", "three"]) == "three"
    assert longest_string(["four", "a", "bb"]) == "four"
    """
    return max(words, key=len)


def lengths(words):
    """returns a list of the lengths of the words

    assert lengths(["a", "bbb"]) == [1, 3]
    assert lengths([]) == []
    assert lengths([""]) == [0]
    """
    return [len(word) for word in words]


def numbers_to(n):
    """returns a list of the integers from 1 to n

    assert numbers_to(3) == [1, 2, 3]
    assert numbers_to(1) == [1]
    assert numbers_to(5) == [1, 2, 3, 4, 5]
    """
    return list(range(1, n + 1))


def flatten(lists):
    """returns one list of all items of a list of lists

    assert flatten([[1], [2, 3]]) == [1, 2, 3]
    assert flatten([[], [4]]) == [4]
    assert flatten([]) == []
    """
    return [item for part in lists for item in part]


def pairwise_sum(first, second):
    """returns a list of the sums of the numbers at the same place in two lists

    assert pairwise_sum([1, 2], [3, 4]) == [4, 6]
    assert pairwise_sum([], []) == []
    assert pairwise_sum([5], [-5]) == [0]
    """
    return [a + b for a, b in zip(first, second, strict=True)]


def running_total(numbers):
    """returns a list of the sums of the first number, the first two numbers, and so on

    assert running_total([1, 2, 3]) == [1, 3, 6]
    assert running_total([]) == []
    assert running_total([5, -5]) == [5, 0]
    """
    return [sum(numbers[: i + 1]) for i in range(len(numbers))]
