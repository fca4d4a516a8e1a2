"""Small functions for the task python_basics: logic. Read by python_basics.py, never imported."""


def maximum(a, b):
    """returns the larger of a and b

    assert maximum(3, 5) == 5
    assert maximum(7, 2) == 7
    assert maximum(4, 4) == 4
    """
    return a if a > b else b


def minimum(a, b):
    """returns the smaller of a and b

    assert minimum(3, 5) == 3
    assert minimum(7, 2) == 2
    assert minimum(4, 4) == 4
    """
    return a if a < b else b


def max_of_three(a, b, c):
    """returns the largest of a, b and c

    assert max_of_three(1, 2, 3) == 3
    assert max_of_three(9, 2, 3) == 9
    assert max_of_three(1, 8, 3) == 8
    """
    return max(a, b, c)


def min_of_three(a, b, c):
    """returns the smallest of a, b and c

    assert min_of_three(1, 2, 3) == 1
    assert min_of_three(9, 2, 3) == 2
    assert min_of_three(5, 8, 3) == 3
    """
    return min(a, b, c)


def sign(n):
    """returns 1 if n is positive, -1 if n is negative and 0 if n is zero

    assert sign(5) == 1
    assert sign(-3) == -1
    assert sign(0) == 0
    assert sign(1) == 1
    assert sign(-1) == -1
    """
    return (n > 0) - (n < 0)


def is_leap_year(year):
    """returns True if year is a leap year

    assert is_leap_year(2024)
    assert not is_leap_year(2023)
    assert not is_leap_year(1900)
    assert is_leap_year(2000)
    """
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def fizzbuzz(n):
    """returns "FizzBuzz" if n is divisible by 15, "Fizz" if by 3, "Buzz" if by 5, else n

    assert fizzbuzz(15) == "FizzBuzz"
    assert fizzbuzz(9) == "Fizz"
    assert fizzbuzz(10) == "Buzz"
    assert fizzbuzz(7) == 7
    """
    if n % 15 == 0:
        return "FizzBuzz"
    return "Fizz" if n % 3 == 0 else "Buzz" if n % 5 == 0 else n


def is_adult(age):
    """returns True if age is at least 18

    assert is_adult(18)
    assert not is_adult(17)
    assert is_adult(40)
    assert not is_adult(4)
    """
    return age >= 18


def can_vote(age, citizen):
    """returns True if age is at least 18 and citizen is True

    assert can_vote(20, True)
    assert not can_vote(20, False)
    assert not can_vote(17, True)
    assert can_vote(18, True)
    """
    return age >= 18 and citizen


def is_equal(a, b):
    """returns True if a and b are equal

    assert is_equal(1, 1)
    assert not is_equal(1, 2)
    assert is_equal("a", "a")
    """
    return a == b


def are_all_equal(a, b, c):
    """returns True if a, b and c are equal

    assert are_all_equal(1, 1, 1)
    assert not are_all_equal(1, 1, 2)
    assert not are_all_equal(1, 2, 2)
    assert not are_all_equal(1, 2, 1)
    """
    return a == b == c


def is_between(n, low, high):
    """returns True if n is at least low and at most high

    assert is_between(5, 1, 10)
    assert is_between(1, 1, 10)
    assert not is_between(11, 1, 10)
    assert not is_between(0, 1, 10)
    """
    return low <= n <= high


def clamp(n, low, high):
    """returns low if n is less than low, high if n is greater than high, otherwise n

    assert clamp(5, 1, 10) == 5
    assert clamp(0, 1, 10) == 1
    assert clamp(20, 1, 10) == 10
    """
    return max(low, min(n, high))


def negate(value):
    """returns the opposite of a boolean value

    assert not negate(True)
    assert negate(False)
    assert negate(1 > 2)
    """
    return not value


def logical_and(a, b):
    """returns True if both a and b are True

    assert logical_and(True, True)
    assert not logical_and(True, False)
    assert not logical_and(False, False)
    assert not logical_and(False, True)
    """
    return a and b


def logical_or(a, b):
    """returns True if a or b is True

    assert logical_or(True, False)
    assert not logical_or(False, False)
    assert logical_or(True, True)
    assert logical_or(False, True)
    """
    return a or b


def logical_xor(a, b):
    """returns True if exactly one of a and b is True

    assert logical_xor(True, False)
    assert not logical_xor(True, True)
    assert not logical_xor(False, False)
    assert logical_xor(False, True)
    """
    return a != b


def both_even(a, b):
    """returns True if both a and b are even

    assert both_even(2, 4)
    assert not both_even(2, 3)
    assert not both_even(1, 3)
    assert not both_even(3, 2)
    """
    return a % 2 == 0 and b % 2 == 0


def either_positive(a, b):
    """returns True if at least one of a and b is greater than zero

    assert either_positive(1, -1)
    assert not either_positive(-1, -2)
    assert either_positive(3, 4)
    assert not either_positive(0, 0)
    assert either_positive(-1, 1)
    assert either_positive(1, 0)
    """
    return a > 0 or b > 0


def same_sign(a, b):
    """returns True if a and b are both positive or both negative

    assert same_sign(2, 3)
    assert same_sign(-2, -3)
    assert not same_sign(2, -3)
    assert not same_sign(-1, 4)
    assert not same_sign(0, 3)
    assert same_sign(1, 1)
    """
    return a * b > 0


def grade(score):
    """returns "A" if score is at least 90, "B" if at least 80, otherwise "C"

    assert grade(95) == "A"
    assert grade(90) == "A"
    assert grade(85) == "B"
    assert grade(79) == "C"
    assert grade(80) == "B"
    assert grade(89) == "B"
    """
    return "A" if score >= 90 else "B" if score >= 80 else "C"


def pass_or_fail(score):
    """returns "pass" if score is at least 50 and "fail" otherwise

    assert pass_or_fail(70) == "pass"
    assert pass_or_fail(50) == "pass"
    assert pass_or_fail(49) == "fail"
    assert pass_or_fail(20) == "fail"
    """
    return "pass" if score >= 50 else "fail"


def even_or_odd(n):
    """returns the string "even" if n is even and "odd" otherwise

    assert even_or_odd(4) == "even"
    assert even_or_odd(7) == "odd"
    assert even_or_odd(0) == "even"
    """
    return "even" if n % 2 == 0 else "odd"


def is_weekend(day):
    """returns True if day is "Saturday" or "Sunday"

    assert is_weekend("Saturday")
    assert not is_weekend("Monday")
    assert is_weekend("Sunday")
    """
    return day in ("Saturday", "Sunday")


def is_multiple_of_three(n):
    """returns True if n is a multiple of 3

    assert is_multiple_of_three(9)
    assert not is_multiple_of_three(10)
    assert is_multiple_of_three(0)
    assert is_multiple_of_three(6)
    """
    return n % 3 == 0


def divisible_by_both(n, a, b):
    """returns True if n is divisible by both a and b

    assert divisible_by_both(12, 3, 4)
    assert not divisible_by_both(12, 3, 5)
    assert not divisible_by_both(10, 4, 5)
    """
    return n % a == 0 and n % b == 0


def is_triangle(a, b, c):
    """returns True if each of a, b and c is less than the sum of the others

    assert is_triangle(3, 4, 5)
    assert not is_triangle(1, 2, 3)
    assert not is_triangle(1, 1, 5)
    assert not is_triangle(7, 2, 2)
    assert not is_triangle(3, 1, 2)
    assert not is_triangle(1, 3, 2)
    """
    return a < b + c and b < a + c and c < a + b


def is_right_triangle(a, b, c):
    """returns True if a squared plus b squared equals c squared

    assert is_right_triangle(3, 4, 5)
    assert not is_right_triangle(2, 3, 4)
    assert is_right_triangle(6, 8, 10)
    """
    return a * a + b * b == c * c


def shipping_cost(total):
    """returns 0 if total is at least 50, 3 if it is at least 20, otherwise 5

    assert shipping_cost(80) == 0
    assert shipping_cost(50) == 0
    assert shipping_cost(49) == 3
    assert shipping_cost(20) == 3
    assert shipping_cost(19) == 5
    """
    return 0 if total >= 50 else 3 if total >= 20 else 5


def bigger_string(first, second):
    """returns the longer of two strings of different lengths

    assert bigger_string("abc", "de") == "abc"
    assert bigger_string("x", "yz") == "yz"
    assert bigger_string("", "a") == "a"
    """
    return first if len(first) > len(second) else second


def safe_divide(a, b):
    """returns a divided by b, or None if b is zero

    assert safe_divide(6, 3) == 2
    assert safe_divide(1, 0) is None
    assert safe_divide(1, 2) == 0.5
    """
    return a / b if b else None


def get_or_default(value, default):
    """returns value, or default if value is None

    assert get_or_default(1, 2) == 1
    assert get_or_default(None, 2) == 2
    assert get_or_default(0, 5) == 0
    """
    return default if value is None else value


def ticket_price(age):
    """returns 5 if age is less than 12 and 10 otherwise

    assert ticket_price(8) == 5
    assert ticket_price(12) == 10
    assert ticket_price(40) == 10
    assert ticket_price(11) == 5
    """
    return 5 if age < 12 else 10


def discount(price, member):
    """returns 90 percent of price if member is True, otherwise price

    assert discount(100, True) == 90
    assert discount(100, False) == 100
    assert discount(10, True) == 9
    """
    return price * 9 / 10 if member else price


def majority_true(values):
    """returns True if more than half of the booleans in a list are True

    assert majority_true([True, False, True])
    assert not majority_true([True, False])
    assert not majority_true([False, False, True])
    assert majority_true([True])
    """
    return sum(values) * 2 > len(values)


def all_true(values):
    """returns True if all values of a list are True

    assert all_true([True, True])
    assert not all_true([True, False])
    assert not all_true([False])
    assert not all_true([False, True])
    """
    return all(values)


def any_true(values):
    """returns True if at least one value of a list is True

    assert any_true([False, True])
    assert not any_true([False, False])
    assert any_true([True])
    assert any_true([True, False])
    """
    return any(values)


def next_day(day):
    """returns day + 1 if day is less than 7, otherwise 1

    assert next_day(1) == 2
    assert next_day(6) == 7
    assert next_day(7) == 1
    """
    return day + 1 if day < 7 else 1


def water_state(celsius):
    """returns "ice" if celsius is less than 0, "steam" if it is more than 100, otherwise "water"

    assert water_state(-1) == "ice"
    assert water_state(50) == "water"
    assert water_state(120) == "steam"
    assert water_state(0) == "water"
    assert water_state(100) == "water"
    assert water_state(101) == "steam"
    """
    return "ice" if celsius < 0 else "steam" if celsius > 100 else "water"


def days_in_february(leap):
    """returns 29 if leap is True and 28 otherwise

    assert days_in_february(True) == 29
    assert days_in_february(False) == 28
    assert days_in_february(2 > 1) == 29
    """
    return 29 if leap else 28
