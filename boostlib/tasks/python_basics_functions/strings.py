"""Small functions for the task python_basics: strings. Read by python_basics.py, never imported."""


def reverse_string(text):
    """returns the string text reversed

    assert reverse_string("abc") == "cba"
    assert reverse_string("") == ""
    assert reverse_string("ab cd") == "dc ba"
    """
    return text[::-1]


def to_upper(text):
    """returns text in upper case

    assert to_upper("abc") == "ABC"
    assert to_upper("aBc1") == "ABC1"
    assert to_upper("") == ""
    """
    return text.upper()


def to_lower(text):
    """returns text in lower case

    assert to_lower("ABC") == "abc"
    assert to_lower("aBc1") == "abc1"
    assert to_lower("") == ""
    """
    return text.lower()


def string_length(text):
    """returns the number of characters of text

    assert string_length("abc") == 3
    assert string_length("") == 0
    assert string_length("a b") == 3
    """
    return len(text)


def first_and_last(text):
    """returns a string of the first and the last character of text

    assert first_and_last("abc") == "ac"
    assert first_and_last("hi") == "hi"
    assert first_and_last("hello") == "ho"
    """
    return text[0] + text[-1]


def without_last(text):
    """returns text without its last character

    assert without_last("abc") == "ab"
    assert without_last("z") == ""
    assert without_last("hello") == "hell"
    """
    return text[:-1]


def is_palindrome(text):
    """returns True if text reads the same forwards and backwards

    assert is_palindrome("level")
    assert not is_palindrome("abc")
    assert is_palindrome("a")
    assert not is_palindrome("ab")
    """
    return text == text[::-1]


def count_vowels(text):
    """returns the number of vowels in the lower case string text

    assert count_vowels("hello") == 2
    assert count_vowels("xyz") == 0
    assert count_vowels("aeiou") == 5
    """
    return sum(c in "aeiou" for c in text)


def count_consonants(word):
    """returns the number of consonants in the lower case word

    assert count_consonants("hello") == 3
    assert count_consonants("aei") == 0
    assert count_consonants("python") == 5
    """
    return sum(c not in "aeiou" for c in word)


def count_words(text):
    """returns the number of words in text

    assert count_words("one two three") == 3
    assert count_words("hello") == 1
    assert count_words("a b") == 2
    """
    return len(text.split())


def count_character(text, character):
    """returns how often character occurs in text

    assert count_character("banana", "a") == 3
    assert count_character("abc", "z") == 0
    assert count_character("aab", "b") == 1
    """
    return text.count(character)


def remove_spaces(text):
    """returns text without its spaces

    assert remove_spaces("a b c") == "abc"
    assert remove_spaces("abc") == "abc"
    assert remove_spaces(" a ") == "a"
    """
    return text.replace(" ", "")


def remove_vowels(text):
    """returns the lower case string text without its vowels

    assert remove_vowels("hello") == "hll"
    assert remove_vowels("aei") == ""
    assert remove_vowels("xyz") == "xyz"
    """
    return "".join(c for c in text if c not in "aeiou")


def is_empty(text):
    """returns True if text is the empty string

    assert is_empty("")
    assert not is_empty("a")
    assert not is_empty(" ")
    """
    return text == ""


def starts_with(text, prefix):
    """returns True if text starts with prefix

    assert starts_with("hello", "he")
    assert not starts_with("hello", "lo")
    assert not starts_with("abc", "abcd")
    """
    return text.startswith(prefix)


def ends_with(text, suffix):
    """returns True if text ends with suffix

    assert ends_with("hello", "lo")
    assert not ends_with("hello", "he")
    assert ends_with("abc", "")
    """
    return text.endswith(suffix)


def contains(text, part):
    """returns True if part occurs in text

    assert contains("hello", "ell")
    assert not contains("hello", "xyz")
    assert contains("abc", "c")
    """
    return part in text


def join_with_dash(first, second):
    """returns the strings first and second joined by a dash

    assert join_with_dash("ab", "cd") == "ab-cd"
    assert join_with_dash("x", "y") == "x-y"
    assert join_with_dash("hello", "you") == "hello-you"
    """
    return first + "-" + second


def double_letters(text):
    """returns text with every character written twice in a row

    assert double_letters("abc") == "aabbcc"
    assert double_letters("x") == "xx"
    assert double_letters("") == ""
    """
    return "".join(2 * c for c in text)


def capitalize_first(text):
    """returns text with its first letter in upper case

    assert capitalize_first("hello") == "Hello"
    assert capitalize_first("a") == "A"
    assert capitalize_first("World") == "World"
    """
    return text[:1].upper() + text[1:]


def swap_case(text):
    """returns text with upper case letters made lower case and lower case letters made upper case

    assert swap_case("aBc") == "AbC"
    assert swap_case("XY") == "xy"
    assert swap_case("a1") == "A1"
    """
    return text.swapcase()


def replace_spaces(text):
    """returns text with every space replaced by an underscore

    assert replace_spaces("a b") == "a_b"
    assert replace_spaces("abc") == "abc"
    assert replace_spaces("a b c") == "a_b_c"
    """
    return text.replace(" ", "_")


def split_words(text):
    """returns a list of the words of text

    assert split_words("one two") == ["one", "two"]
    assert split_words("hello") == ["hello"]
    assert split_words("a b c") == ["a", "b", "c"]
    """
    return text.split()


def join_words(words):
    """returns the words joined by single spaces

    assert join_words(["one", "two"]) == "one two"
    assert join_words(["a"]) == "a"
    assert join_words(["x", "y", "z"]) == "x y z"
    """
    return " ".join(words)


def reverse_words(text):
    """returns text with its words in reverse order

    assert reverse_words("one two three") == "three two one"
    assert reverse_words("a") == "a"
    assert reverse_words("x y") == "y x"
    """
    return " ".join(text.split()[::-1])


def first_word(text):
    """returns the first word of text

    assert first_word("one two") == "one"
    assert first_word("hello") == "hello"
    assert first_word("a b c") == "a"
    assert first_word("a long one") == "a"
    """
    return text.split()[0]


def longest_word(text):
    """returns the longest word of text

    assert longest_word("a bbb cc") == "bbb"
    assert longest_word("hello") == "hello"
    assert longest_word("one three to") == "three"
    assert longest_word("three a bb") == "three"
    """
    return max(text.split(), key=len)


def is_digits(text):
    """returns True if text consists of digits only

    assert is_digits("123")
    assert not is_digits("12a")
    assert is_digits("7")
    """
    return text.isdigit()


def is_upper_case(word):
    """returns True if all letters of word are upper case

    assert is_upper_case("ABC")
    assert not is_upper_case("AbC")
    assert not is_upper_case("abc")
    """
    return word.isupper()


def count_upper_case(text):
    """returns the number of upper case letters in text

    assert count_upper_case("aBC") == 2
    assert count_upper_case("abc") == 0
    assert count_upper_case("Hello World") == 2
    """
    return sum(c.isupper() for c in text)


def count_digits_in(text):
    """returns the number of digits in the string text

    assert count_digits_in("a1b2") == 2
    assert count_digits_in("abc") == 0
    assert count_digits_in("2024") == 4
    """
    return sum(c.isdigit() for c in text)


def sorted_letters(word):
    """returns a string of the letters of word in alphabetical order

    assert sorted_letters("bca") == "abc"
    assert sorted_letters("hello") == "ehllo"
    assert sorted_letters("a") == "a"
    """
    return "".join(sorted(word))


def is_anagram(first, second):
    """returns True if the word first is an anagram of the word second

    assert is_anagram("listen", "silent")
    assert not is_anagram("abc", "abd")
    assert not is_anagram("aab", "abb")
    """
    return sorted(first) == sorted(second)


def middle_character(word):
    """returns the middle character of a word of odd length

    assert middle_character("abc") == "b"
    assert middle_character("hello") == "l"
    assert middle_character("x") == "x"
    """
    return word[len(word) // 2]


def every_second(text):
    """returns every second character of text, starting with the first

    assert every_second("abcdef") == "ace"
    assert every_second("a") == "a"
    assert every_second("abc") == "ac"
    """
    return text[::2]


def initials(name):
    """returns the first letters of the words of name as one string

    assert initials("Ada Lovelace") == "AL"
    assert initials("Bob") == "B"
    assert initials("a b c") == "abc"
    """
    return "".join(word[0] for word in name.split())


def remove_duplicate_letters(word):
    """returns word with only the first occurrence of every letter

    assert remove_duplicate_letters("banana") == "ban"
    assert remove_duplicate_letters("abc") == "abc"
    assert remove_duplicate_letters("aaa") == "a"
    """
    return "".join(dict.fromkeys(word))


def is_vowel(letter):
    """returns True if the lower case letter is a vowel

    assert is_vowel("a")
    assert not is_vowel("b")
    assert is_vowel("u")
    """
    return letter in "aeiou"


def pad_left(text, width):
    """returns text padded with zeros on the left to the given width

    assert pad_left("7", 3) == "007"
    assert pad_left("42", 2) == "42"
    assert pad_left("5", 1) == "5"
    """
    return text.rjust(width, "0")


def greet(name):
    """returns the string "Hello, " followed by name and an exclamation mark

    assert greet("Ada") == "Hello, Ada!"
    assert greet("Bob") == "Hello, Bob!"
    assert greet("you") == "Hello, you!"
    """
    return f"Hello, {name}!"
