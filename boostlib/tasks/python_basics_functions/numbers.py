"""Small functions for the task python_basics: numbers. Read by python_basics.py, never imported."""


def is_even(n):
    """returns True if n is even

    assert is_even(4)
    assert not is_even(7)
    assert is_even(0)
    assert is_even(2)
    """
    return n % 2 == 0


def is_odd(n):
    """returns True if n is odd

    assert is_odd(3)
    assert not is_odd(8)
    assert is_odd(-1)
    """
    return n % 2 == 1


def square(n):
    """returns the square of n

    assert square(3) == 9
    assert square(0) == 0
    assert square(-4) == 16
    """
    return n * n


def cube(n):
    """returns the cube of n

    assert cube(2) == 8
    assert cube(-3) == -27
    assert cube(1) == 1
    """
    return n**3


def double(n):
    """returns two times n

    assert double(4) == 8
    assert double(0) == 0
    assert double(-3) == -6
    """
    return 2 * n


def half(n):
    """returns n divided by 2

    assert half(8) == 4
    assert half(5) == 2.5
    assert half(0) == 0
    """
    return n / 2


def add(a, b):
    """returns the sum of a and b

    assert add(2, 3) == 5
    assert add(-1, 1) == 0
    assert add(10, 20) == 30
    """
    return a + b


def subtract(a, b):
    """returns a minus b

    assert subtract(7, 3) == 4
    assert subtract(3, 7) == -4
    assert subtract(5, 0) == 5
    """
    return a - b


def multiply(a, b):
    """returns the product of a and b

    assert multiply(3, 4) == 12
    assert multiply(-2, 5) == -10
    assert multiply(0, 9) == 0
    """
    return a * b


def absolute_value(n):
    """returns the absolute value of n

    assert absolute_value(-5) == 5
    assert absolute_value(5) == 5
    assert absolute_value(0) == 0
    assert absolute_value(-12) == 12
    """
    return abs(n)


def is_positive(n):
    """returns True if n is greater than zero

    assert is_positive(5)
    assert not is_positive(-2)
    assert not is_positive(0)
    assert is_positive(1)
    assert is_positive(4)
    """
    return n > 0


def is_negative(n):
    """returns True if n is less than zero

    assert is_negative(-5)
    assert not is_negative(3)
    assert not is_negative(0)
    assert not is_negative(1)
    assert is_negative(-1)
    """
    return n < 0


def factorial(n):
    """returns the factorial of n

    assert factorial(5) == 120
    assert factorial(0) == 1
    assert factorial(3) == 6
    """
    return 1 if n < 2 else n * factorial(n - 1)


def sum_to_n(n):
    """returns the sum of the integers from 1 to n

    assert sum_to_n(4) == 10
    assert sum_to_n(1) == 1
    assert sum_to_n(10) == 55
    """
    return n * (n + 1) // 2


def sum_of_digits(n):
    """returns the sum of the digits of the positive integer n

    assert sum_of_digits(123) == 6
    assert sum_of_digits(9) == 9
    assert sum_of_digits(1002) == 3
    """
    return sum(int(digit) for digit in str(n))


def count_digits(n):
    """returns the number of digits of the positive integer n

    assert count_digits(123) == 3
    assert count_digits(7) == 1
    assert count_digits(10000) == 5
    """
    return len(str(n))


def last_digit(n):
    """returns the last digit of the positive integer n

    assert last_digit(123) == 3
    assert last_digit(7) == 7
    assert last_digit(40) == 0
    """
    return n % 10


def first_digit(n):
    """returns the first digit of the positive integer n

    assert first_digit(123) == 1
    assert first_digit(7) == 7
    assert first_digit(940) == 9
    """
    return int(str(n)[0])


def reverse_number(n):
    """returns the positive integer n with its digits reversed

    assert reverse_number(123) == 321
    assert reverse_number(7) == 7
    assert reverse_number(120) == 21
    """
    return int(str(n)[::-1])


def is_prime(n):
    """returns True if n is a prime number

    assert is_prime(7)
    assert not is_prime(9)
    assert is_prime(2)
    assert not is_prime(1)
    assert not is_prime(4)
    """
    return n > 1 and all(n % i for i in range(2, n))


def is_divisible(a, b):
    """returns True if a is divisible by b

    assert is_divisible(9, 3)
    assert not is_divisible(10, 4)
    assert is_divisible(0, 5)
    """
    return a % b == 0


def is_perfect_square(n):
    """returns True if n is the square of an integer

    assert is_perfect_square(16)
    assert not is_perfect_square(15)
    assert is_perfect_square(1)
    assert not is_perfect_square(2)
    assert is_perfect_square(9)
    """
    return round(n**0.5) ** 2 == n


def power(base, exponent):
    """returns base raised to the power of exponent

    assert power(2, 3) == 8
    assert power(5, 0) == 1
    assert power(3, 2) == 9
    """
    return base**exponent


def remainder(a, b):
    """returns the remainder of a divided by b

    assert remainder(7, 3) == 1
    assert remainder(8, 4) == 0
    assert remainder(5, 9) == 5
    """
    return a % b


def celsius_to_fahrenheit(celsius):
    """converts a temperature from Celsius to Fahrenheit

    assert celsius_to_fahrenheit(0) == 32
    assert celsius_to_fahrenheit(100) == 212
    assert celsius_to_fahrenheit(-40) == -40
    """
    return celsius * 9 / 5 + 32


def fahrenheit_to_celsius(fahrenheit):
    """converts a temperature from Fahrenheit to Celsius

    assert fahrenheit_to_celsius(32) == 0
    assert fahrenheit_to_celsius(212) == 100
    assert fahrenheit_to_celsius(-40) == -40
    """
    return (fahrenheit - 32) * 5 / 9


def volume_of_box(width, height, depth):
    """returns the volume of a box

    assert volume_of_box(2, 3, 4) == 24
    assert volume_of_box(5, 5, 5) == 125
    assert volume_of_box(1, 1, 7) == 7
    """
    return width * height * depth


def perimeter_of_rectangle(width, height):
    """returns the perimeter of a rectangle

    assert perimeter_of_rectangle(3, 4) == 14
    assert perimeter_of_rectangle(5, 5) == 20
    assert perimeter_of_rectangle(1, 2) == 6
    """
    return 2 * (width + height)


def area_of_triangle(base, height):
    """returns the area of a triangle

    assert area_of_triangle(4, 3) == 6
    assert area_of_triangle(10, 5) == 25
    assert area_of_triangle(1, 1) == 0.5
    """
    return base * height / 2


def average_of_two(a, b):
    """returns the average of a and b

    assert average_of_two(2, 4) == 3
    assert average_of_two(1, 2) == 1.5
    assert average_of_two(-3, 3) == 0
    """
    return (a + b) / 2


def minutes_to_seconds(minutes):
    """converts minutes to seconds

    assert minutes_to_seconds(1) == 60
    assert minutes_to_seconds(5) == 300
    assert minutes_to_seconds(0) == 0
    """
    return minutes * 60


def total_minutes(hours, minutes):
    """returns the total number of minutes in the given hours and minutes

    assert total_minutes(1, 30) == 90
    assert total_minutes(0, 45) == 45
    assert total_minutes(2, 0) == 120
    """
    return hours * 60 + minutes


def fibonacci(n):
    """returns the n-th Fibonacci number, where fibonacci(0) is 0 and fibonacci(1) is 1

    assert fibonacci(0) == 0
    assert fibonacci(1) == 1
    assert fibonacci(7) == 13
    """
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def gcd(a, b):
    """returns the greatest common divisor of a and b

    assert gcd(12, 8) == 4
    assert gcd(7, 5) == 1
    assert gcd(9, 3) == 3
    assert gcd(8, 12) == 4
    """
    return a if b == 0 else gcd(b, a % b)


def lcm(a, b):
    """returns the least common multiple of a and b

    assert lcm(4, 6) == 12
    assert lcm(3, 5) == 15
    assert lcm(7, 7) == 7
    """
    return next(m for m in range(max(a, b), a * b + 1) if m % a == 0 and m % b == 0)


def divisors(n):
    """returns a list of the divisors of n in increasing order

    assert divisors(6) == [1, 2, 3, 6]
    assert divisors(7) == [1, 7]
    assert divisors(1) == [1]
    """
    return [i for i in range(1, n + 1) if n % i == 0]


def sum_of_squares(n):
    """returns the sum of the squares of the integers from 1 to n

    assert sum_of_squares(3) == 14
    assert sum_of_squares(1) == 1
    assert sum_of_squares(5) == 55
    """
    return sum(i * i for i in range(1, n + 1))


def product_of_digits(n):
    """returns the product of the digits of the positive integer n

    assert product_of_digits(123) == 6
    assert product_of_digits(7) == 7
    assert product_of_digits(105) == 0
    """
    result = 1
    for digit in str(n):
        result *= int(digit)
    return result


def round_to_ten(n):
    """returns the largest multiple of 10 that is not greater than n

    assert round_to_ten(27) == 20
    assert round_to_ten(30) == 30
    assert round_to_ten(9) == 0
    """
    return n // 10 * 10


def distance(a, b):
    """returns the absolute difference of a and b

    assert distance(3, 8) == 5
    assert distance(8, 3) == 5
    assert distance(4, 4) == 0
    """
    return abs(a - b)
