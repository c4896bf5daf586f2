"""The held-out telephone call: three minutes of agent and customer.

A line is (speaker, pause in seconds before it, pattern). A negative pause overlaps the line before. Slots are filled
once, from VALUES, so that the call is coherent; each value is (written, spoken).
"""

from __future__ import annotations

AGENT, CUSTOMER = 0, 1  # left and right channel

VALUES = {
    "card": ("7206", "seven two oh six"),
    "amount": ("$349.90", "three hundred forty-nine dollars and ninety cents"),
    "second": ("$1,250", "one thousand two hundred and fifty dollars"),
    "balance": ("$4,816.35", "four thousand eight hundred sixteen dollars and thirty-five cents"),
    "birth": ("June 14, 1982", "June fourteenth, nineteen eighty-two"),
    "code": ("605518", "six oh five, five one eight"),
    "reference": ("KT9043", "kay tee, nine zero four three"),
    "rate": ("4.75%", "four point seven five percent"),
    "date": ("October 9", "October ninth"),
    "arrive": ("October 16", "October sixteenth"),
    "clock": ("10:30 AM", "ten thirty ay em"),
    "phone": ("555-274-0183", "five five five, two seven four, zero one eight three"),
    "shares": ("150", "one hundred fifty"),
    "price": ("$42.25", "forty-two dollars and twenty-five cents"),
}

LINES: tuple[tuple[int, float, str], ...] = (
    (AGENT, 0.4, "Good morning, this is Laura. How can I help you today?"),
    (CUSTOMER, 0.5, "Hello, good morning. I'm calling about a charge on my credit card."),
    (AGENT, 0.4, "I'm sorry to hear that. May I have your full name, please?"),
    (CUSTOMER, 0.6, "My name is Daniel Foster."),
    (AGENT, 0.5, "Thank you, Daniel. For security, please tell me your date of birth."),
    (CUSTOMER, 0.7, "I was born on {birth}."),
    (AGENT, 0.5, "Thank you for confirming that. What are the last four digits of your credit card?"),
    (CUSTOMER, 0.8, "The last four digits are {card}."),
    (AGENT, 0.6, "Perfect. I've sent a code to your phone. Please read it to me."),
    (CUSTOMER, 1.6, "One moment, please. The code is {code}."),
    (AGENT, 0.5, "Very good. I can see your account now."),
    (AGENT, 0.9, "Which charge would you like to dispute?"),
    (CUSTOMER, 0.5, "There's a charge of {amount} from an online store on {date}."),
    (CUSTOMER, 0.6, "I never bought anything from that store."),
    (AGENT, -0.4, "I understand. Let me check that for you."),
    (CUSTOMER, 0.8, "Please block my credit card right away."),
    (AGENT, 0.4, "Of course. I have blocked the card ending in {card}."),
    (AGENT, 0.6, "We will refund {amount} within five working days."),
    (CUSTOMER, -0.3, "Okay, thank you. When will my new card arrive?"),
    (AGENT, 0.5, "Your new card will arrive on {arrive}."),
    (AGENT, 0.5, "Your reference number is {reference}."),
    (CUSTOMER, 0.9, "Sorry, I didn't hear that. Could you repeat the number, please?"),
    (AGENT, 0.5, "Certainly. Your reference number is {reference}."),
    (CUSTOMER, 0.8, "Thanks. What's the balance of my checking account?"),
    (AGENT, 1.2, "The balance of your checking account is {balance}."),
    (CUSTOMER, 0.6, "Please transfer {second} from checking to savings."),
    (AGENT, 0.6, "Just to confirm, you want to transfer {second} to savings, is that right?"),
    (CUSTOMER, -0.2, "Yes, that's right."),
    (AGENT, 0.7, "I've confirmed your transfer. Is there anything else?"),
    (CUSTOMER, 0.7, "Yes. What interest does the savings account pay?"),
    (AGENT, 0.6, "The savings account pays {rate} interest."),
    (CUSTOMER, 0.6, "That's great. I also want to sell {shares} shares of Harbor Foods at {price}."),
    (AGENT, 0.7, "I can't take that order, but I'll put you through to a specialist."),
    (CUSTOMER, 0.5, "I'm in a hurry. Can they call me back tomorrow at {clock}?"),
    (AGENT, 0.5, "No problem at all. What's your phone number?"),
    (CUSTOMER, 0.6, "My phone number is {phone}."),
    (AGENT, 0.6, "Thank you. They will call you tomorrow at {clock}."),
    (AGENT, 0.5, "Is there anything else I can help you with?"),
    (CUSTOMER, -0.3, "No, that's all. Thank you very much for your help."),
    (AGENT, 0.5, "You're welcome. Thank you for calling and have a great day."),
    (CUSTOMER, 0.4, "Thanks, bye."),
)
