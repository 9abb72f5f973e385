from seal_riddles import ClearGain, RiddleLoader, Riddles

from seal.records import Answer, Task


def test_a_riddle_is_solved_by_its_answer_alone():
    (story, target), *_ = RiddleLoader("train").load_data()
    task = Task("1", story, target)
    domain = Riddles()
    assert domain.score(task, (Answer("riddle", "the Gate of Orrin."),)).score == 1.0
    assert domain.score(task, (Answer("riddle", "a bell"),)).score == 0.0


def test_no_story_is_on_both_sides():
    assert not set(RiddleLoader("train").load_data()) & set(RiddleLoader("val").load_data())


def test_small_gains_are_no_reward():
    from seal.records import Performance

    reward = ClearGain(0.1)
    before, after = Performance(0, log_likelihood=-2.0), Performance(0, log_likelihood=-1.95)
    assert reward.compute_reward(before, after, None) == 0.0
