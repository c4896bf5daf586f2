"""Sentence patterns for a bank or a broker: patterns with choices in [a|b] and slots in {braces}.

Every pattern is written as a person would write it. Plain slots are lists below; figures and spelled names come from
sentences.py. Choices may be empty ([please |]) and are not nested.
"""

from __future__ import annotations


def _items(text: str) -> tuple[str, ...]:
    """The items between bars."""
    return tuple(" ".join(item.split()) for item in text.split("|"))


def _words(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


LISTS: dict[str, tuple[str, ...]] = {
    "first": _items("""
        James | Mary | Robert | Linda | Michael | Susan | David | Karen | William | Nancy | Richard | Lisa | Joseph |
        Sandra | Thomas | Ashley | Daniel | Emily | Matthew | Donna | Anthony | Michelle | Mark | Carol | Paul |
        Amanda | Steven | Melissa | Andrew | Deborah | Kenneth | Stephanie | George | Rebecca | Kevin | Laura | Brian
        | Helen | Edward | Amy | Jason | Anna | Jeffrey | Nicole | Ryan | Samantha | Jacob | Katherine | Gary | Emma |
        Nicholas | Ruth | Eric | Julie | Jonathan | Olivia | Larry | Heather | Scott | Maria | Frank | Diane |
        Benjamin | Victoria | Samuel | Joan | Patrick | Grace | Alexander | Judith | Jack | Sophia | Dennis | Hannah |
        Peter | Rachel | Walter | Megan | Henry | Alice | Adam | Julia | Nathan | Lauren | Oliver | Isabella | Harry |
        Charlotte | Simon | Fiona | Martin | Priya | Omar | Fatima | Carlos | Elena | Diego | Sofia | Ravi | Mei |
        Hassan | Ingrid | Lukas | Nina | Marco | Yuki | Ahmed | Leila
    """),
    "last": _items("""
        Smith | Johnson | Williams | Brown | Jones | Garcia | Miller | Davis | Rodriguez | Martinez | Wilson |
        Anderson | Taylor | Thomas | Moore | Jackson | Martin | Lee | Thompson | White | Harris | Clark | Lewis |
        Robinson | Walker | Young | Allen | King | Wright | Scott | Hill | Green | Adams | Nelson | Baker | Hall |
        Campbell | Mitchell | Carter | Roberts | Phillips | Evans | Turner | Parker | Collins | Edwards | Stewart |
        Morris | Murphy | Cook | Rogers | Morgan | Cooper | Peterson | Bailey | Reed | Kelly | Howard | Cox | Ward |
        Richardson | Watson | Brooks | Wood | James | Bennett | Gray | Hughes | Price | Sanders | Myers | Long |
        Foster | Powell | Sullivan | Russell | Fisher | Henderson | Coleman | Graham | Wallace | Patel | Khan | Singh
        | Kumar | Chen | Wong | Nakamura | Silva | Novak | Schmidt | Weber | Rossi | Kowalski | Jensen | Larsen |
        Murray | Fraser | Douglas | Hamilton | Spencer | Harper | Gibson | Barnes | Palmer | Holmes
    """),
    "payee": _items("""
        my landlord | my sister | my brother | my mother | my father | my daughter | my son | my wife | my husband |
        my roommate | my landlady | the plumber | the electrician | the dentist | the school | the gas company | the
        water company | the garage | my accountant | the insurance company | the phone company | my gym | the builder
        | the nursery | the tax office | my cousin | my aunt | my business partner | the council | the hospital | my
        neighbor | my lawyer
    """),
    "acct": _items("""
        savings | checking | my savings account | my checking account | my current account | the joint account | my
        business account | my retirement account | my brokerage account | my money market account | my student account
        | my holiday fund | my emergency fund | my credit card | my euro account | my trust account | my college fund
        | my payroll account
    """),
    "acctname": _items("""
        savings account | checking account | current account | joint account | business account | retirement account |
        brokerage account | money market account | student account | trust account | credit card account | deposit
        account | investment account | payroll account | mortgage account
    """),
    "cardkind": _items("""
        card | debit card | credit card | business card | travel card | gold card | cash card | platinum card | new
        card | old card | replacement card | company card
    """),
    "loan": _items("""
        mortgage | car loan | personal loan | student loan | home loan | business loan | bridge loan | home equity
        loan | auto loan | credit line | construction loan | consolidation loan
    """),
    "company": _items("""
        Apple | Microsoft | Amazon | Tesla | Ford | Intel | Boeing | Disney | Netflix | Walmart | Target | Starbucks |
        Nike | Coca-Cola | Shell | Toyota | Sony | Siemens | Nokia | Oracle | Adobe | Cisco | Visa | Mastercard |
        Chevron | Pfizer | General Electric | Home Depot | Costco | Northwind | Summit Energy | Blue River | Harbor
        Foods | Granite Steel | Redwood Software | Atlas Motors | Silver Lake | Pioneer Oil | Evergreen Power | Delta
        | Honda | Samsung
    """),
    "fund": _items("""
        the index fund | the bond fund | the growth fund | the balanced fund | the global equity fund | the treasury
        fund | the small cap fund | the emerging markets fund | the dividend fund | the technology fund | the real
        estate fund | the target date fund | the money market fund | the energy fund | the municipal bond fund
    """),
    "shop": _items("""
        a gas station | an online store | a hotel in Madrid | a restaurant in Chicago | a petrol station | a
        supermarket | an airline | a jewelry store | a taxi company | a bookshop | a pharmacy | a streaming service |
        an electronics store | a furniture shop | a car rental company | a ticket office | a coffee shop | a casino |
        a grocery store | a website I don't know | a travel agency | a department store | a parking garage | a
        hardware store
    """),
    "city": _items("""
        London | New York | Chicago | Boston | Dallas | Denver | Seattle | Miami | Toronto | Dublin | Edinburgh |
        Glasgow | Manchester | Leeds | Bristol | Cardiff | Paris | Berlin | Madrid | Rome | Vienna | Zurich | Geneva |
        Oslo | Singapore | Sydney | Tokyo | Mumbai | Dubai | Lisbon | Houston | Atlanta | Phoenix | Portland | Austin
        | Brussels
    """),
    "country": _items("""
        Spain | France | Germany | Italy | Japan | Canada | Mexico | Portugal | Ireland | Greece | Turkey | Brazil |
        India | Australia | Norway | Sweden | Poland | Thailand | Egypt | Morocco | Switzerland | Austria
    """),
    "street": _items("""
        Main Street | Oak Avenue | Maple Road | Church Lane | Park Street | High Street | Station Road | Elm Street |
        Hill Road | River Drive | Mill Lane | King Street | Victoria Road | Lake Avenue | Garden Court | Market Square
        | Bridge Street
    """),
    "weekday": _items("""
        Monday | Tuesday | Wednesday | Thursday | Friday | Saturday | Sunday
    """),
    "month": _items("""
        January | February | March | April | May | June | July | August | September | October | November | December
    """),
    "when": _items("""
        today | tomorrow | yesterday | this morning | this afternoon | last night | last week | last month | this week
        | next week | two days ago | on the weekend | a few days ago | last year | this evening | just now | over the
        weekend
    """),
    "soon": _items("""
        today | tomorrow | next week | next month | this afternoon | at the end of the month | right away | as soon as
        possible | tomorrow morning | on payday | before the weekend | by the end of the day | after the holiday |
        first thing tomorrow
    """),
    "often": _items("""
        every week | every month | every year | every two weeks | every quarter | twice a month | once a month | every
        Friday
    """),
    "agent": _items("""
        Thank you for your patience | Thank you for holding | Thank you for confirming that | I understand | Certainly
        | Of course | No problem at all | I'd be happy to help | I'm sorry to hear that | Let me check that for you |
        That's all fine | Perfect | Very good | I see | All right | I appreciate that | Good news
    """),
    "filler": _items("""
        Well | Okay | So | Yes | No | Right | Sorry | Actually | Hi | Hello | Look | Oh | Sure | Um | Listen | Thanks
    """),
    "document": _items("""
        passport | driver's license | utility bill | bank statement | tax return | pay slip | birth certificate |
        lease | marriage certificate | letter from your employer | social security card | proof of address
    """),
    "thing": _items("""
        statement | payment | transfer | deposit | invoice | refund | contract | application | password | appointment
        | complaint | signature | receipt | claim | order | letter | message | check book | standing order | direct
        debit | overdraft | credit limit | interest rate | monthly fee | exchange rate | security question | phone
        number | email address
    """),
    "feeling": _items("""
        worried | confused | very happy | a little upset | in a hurry | surprised | not sure | quite pleased |
        concerned
    """),
}  # fmt: skip

BANKING = """
Transfer {money} to {acct}.
Transfer {money} from {acct} to {acct}.
[Please transfer|Please move|Move|I'd like to move|I want to transfer] {money} to {acct} [today|on {weekday}|on {day}].
Can you move {money} into {acct} [today|tomorrow|now]?
[Send|Please send|I want to send|I need to send|Could you send] {money} to {payee}.
[Send|Wire|Pay] {money} to {first} {last}.
[Send|Wire|Pay] {first} {money} [today|tomorrow|on {weekday}|by {weekday}].
Pay {payee} {money} {soon}.
Pay {money} to {payee} {often}.
Set up a [standing order|recurring payment|monthly transfer] of {money} to {payee}.
Set up a standing order for {money} on {monthday} of every month.
Cancel my standing order [to|for] {payee}.
Cancel the [payment|transfer] of {money} to {first} {last}.
Did my [payment|transfer|deposit] of {money} go through?
Has the {money} from {payee} arrived [yet|today]?
I [sent|paid|transferred] {money} to {payee} {when}.
I [sent|transferred] {money} to the wrong account.
When will the {money} [arrive|be in my account|be available]?
Make a payment of {money} on my {loan}.
Wire {money} to account {account}.
Wire {money} to account {account}, routing number {routing}.
The sort code is {sort_code}.
The sort code is {sort_code} and the account number is {account}.
The account number is {account}.
My account number is {account}.
It's account {account}.
The routing number is {routing}.
What's the balance [of|on|in] {acct}?
What is my {acctname} balance?
How much [money|cash] [is|do I have] in {acct}?
How much is left in {acct}?
Your {acctname} balance is {money}.
The balance [of|on] your {acctname} is {money}.
You have {money} in your {acctname}.
Your available balance is {money}.
There is {money} in the account ending in {four}.
The account ending in {four} has {money}.
Show me [my last|the last] {few} transactions.
Show me all payments [over|above|under|below] {money}.
Show me what I spent [in {month}|last month|last week|at {shop}].
How much did I spend [in {month}|on groceries|on rent|on travel|on fuel] {when}?
[My card ends in|My card ending is|The card ends in|It ends in|Mine ends in] {four}.
My {cardkind} [ends in|ending in] {four}.
The last four digits are {four}.
The last four digits of [my|the|your] {cardkind} are {four}.
Can you confirm the last four digits, {four}?
It's the {cardkind} ending in {four}.
My card number is {card}.
The card number is {card}.
It's {card}.
The long number on the front is {card}.
The security code is {three}.
The three digits on the back are {three}.
The expiry date is {expiry}.
It expires in {expiry}.
The card is valid until {month} {year}.
My [one-time code|verification code|passcode] is {code}.
The code [you sent me|I received|on my phone] is {code}.
The code is {code}.
I got the code {code}.
[I lost|I've lost|Someone stole|I can't find|I broke|I left] my {cardkind} {when}.
I lost my {cardkind} in {city}.
Please [block|freeze|cancel|replace|unblock|unfreeze] my {cardkind}.
Please [block|freeze|cancel|replace] the card ending in {four}.
[Freeze|Block] my {cardkind} right away.
My {cardkind} was [declined|rejected|swallowed|refused] at {shop}.
My {cardkind} was declined {when}.
The machine [kept|swallowed|ate] my {cardkind}.
The ATM gave me {money} instead of {money}.
I'd like to [order|request|activate|cancel] a {cardkind}.
I want to activate my {cardkind} ending in {four}.
When will my {cardkind} arrive?
My new card hasn't arrived yet.
Can I raise my [card limit|daily limit|credit limit|overdraft] to {money}?
What's my [card limit|daily limit|credit limit|overdraft limit]?
Your credit limit is {money}.
Your daily limit is {money}.
I forgot my [PIN|password|user name|security answer].
How do I change my [PIN|password|address|phone number|email address]?
I want to change my [PIN|password|address|phone number|email address].
I'm travelling to {country} {soon}.
I'll be in {country} from {day} to {day}.
I'll be in {city} until {day}.
Will my {cardkind} work in {country}?
What are the fees for [using my card|withdrawing cash|sending money] in {country}?
I don't recognize [a|this] [charge|payment|transaction] of {money}.
There's a charge of {money} from {shop} that I didn't make.
There is a payment of {money} to {shop} on {day}.
Did you make a payment of {money} at {shop}?
Did you spend {money} at {shop} {when}?
I [never|didn't] [paid|bought|ordered|authorized] anything [at|from] {shop}.
I was charged twice [for {money}|at {shop}|on {day}].
I was charged {money} [twice|by mistake|on {day}|at {shop}].
I think [my card|my account|my password|my identity] was [stolen|hacked|copied|compromised].
Someone [used|copied|cloned] my {cardkind} at {shop}.
I want to [report|dispute] a [fraud|charge|payment|transaction] of {money}.
I got a [text message|phone call|strange email|letter] from someone [who said|claiming] they were from the bank.
Was that [message|call|email] really from you?
We noticed [unusual|suspicious] activity on your {acctname}.
We have [blocked|frozen|locked] your {cardkind} for your safety.
We will refund {money} within {few} [days|working days|business days].
The refund of {money} will [arrive|be paid] on {day}.
When do I get my [refund|money back|deposit back]?
My [salary|pension|paycheck|rent|refund] of {money} [arrived|came|was paid] {when}.
I want to deposit a check for {money}.
I'd like to [deposit|withdraw|take out|pay in] {money}.
Withdraw {money} from {acct}.
Deposit {money} into {acct}.
The check number is {four}.
Please stop [check|payment on check] number {four}.
My check for {money} [bounced|was returned|hasn't cleared].
I need [a|another] [check book|bank statement|copy of my statement|letter for my landlord].
Please send me [my|the] statement for {month}.
Please send me my statements [from|since] {month} {year}.
I'd like to open a {acctname}.
I want to close [my|the|our] {acctname}.
How do I [open|close|upgrade] a {acctname}?
I've been a customer since {year}.
I opened this account in {year}.
Can I add my [wife|husband|son|daughter|mother|business partner] to the account?
Why was I charged a fee of {money}?
What is the fee for a [transfer|wire|replacement card|late payment]?
There is a monthly fee of {money}.
The fee is {money} per [month|year|transfer|payment].
"""

LENDING = """
I'd like to apply for a {loan}.
I'd like to apply for a {loan} of {money}.
Can I borrow {money} over {term} years?
I need a {loan} of {money} for {term} years.
What's the [interest rate|rate|APR] on a {loan}?
The rate on a {term}-year mortgage is {percent}.
What is the rate for a {term}-year mortgage?
The interest rate is {percent}.
The rate is {percent} fixed for {term} years.
Your rate [went up|went down|changed|rose|fell] from {percent} to {percent}.
Your rate will [rise|fall|change|stay] at {percent} [in {month}|next year|from {day}].
Your monthly payment is {money}.
My monthly payment is {money}.
Your monthly payment [is|will be] {money} on {monthday} of the month.
How much would I pay [each month|every month|in total] for a {loan} of {money}?
How much do I still owe on my {loan}?
You still owe {money} on your {loan}.
The remaining balance on your {loan} is {money}.
I want to pay off my {loan} early.
Is there a penalty for paying off my {loan} early?
The penalty is {percent} of the balance.
I missed a payment on my {loan} {when}.
I can't [make|afford] my {loan} payment this month.
Can I [skip|delay|lower|postpone] my {loan} payment [until {month}|this month|by a week]?
Your {loan} was [approved|declined|paid off] on {day}.
Your {loan} application is [approved|being reviewed|incomplete|ready to sign].
Has my {loan} been approved yet?
The house costs {money} and we have {money} saved.
We can put down {money}.
We put {percent} down.
My income is {money} a [year|month].
I earn {money} a [year|month|week].
My [wife|husband|partner] earns {money} a year.
We're buying a [house|flat|apartment|farm] in {city}.
We want to refinance our {loan}.
Refinancing would save you {money} a year.
What would {percent} [cost|save] me?
Is that rate fixed or variable?
The [savings|deposit] account pays {percent} interest.
What interest does the {acctname} pay?
The rate on your {acctname} is {percent}.
A {term}-year fixed deposit pays {percent}.
Inflation was {percent} in {month}.
You earned {money} in interest [last year|in {year}|this quarter].
I need a quote for a {loan} by {day}.
What's my credit score?
Your credit score is {score}.
We need [a copy of|to see] your {document}.
Please bring your {document} and your {document}.
Do I need [a|my] {document}?
The loan officer will call you on {weekday} at {clock}.
The first payment is due on {day}.
The payment of {money} is due on {day}.
The {loan} ends in {year}.
"""

BROKERAGE = """
Buy {shares} shares of {company}.
Sell {shares} shares of {company}.
[Buy|Please buy|I want to buy] {shares} shares of {company} at market.
[Buy|Sell] {shares} {company} at {price} or better.
Sell all my [shares of|stock in] {company}.
Sell half of my {company} shares.
Buy {shares} shares of {company} at {price}.
Sell {shares} shares of {company} at {price}, good [today|until {day}|until cancelled].
Place a [limit|stop] order for {shares} shares of {company} at {price}.
Set a stop loss on {company} at {price}.
Move my stop on {company} to {price}.
Cancel my order for {shares} shares of {company}.
Cancel order {reference}.
Your order number is {reference}.
The reference is {reference}.
My reference number is {reference}.
Has my order for {company} been filled?
Your order for {shares} shares of {company} was filled at {price}.
You bought {shares} shares of {company} on {day}.
{company} is trading at {price}.
{company} closed at {price}, up {percent}.
{company} is down {percent} {when}.
{company} fell {percent} and {company} rose {percent}.
What's {company} trading at?
What's the price of {company}?
How many shares of {company} do I own?
You hold {shares} shares of {company} and {shares} of {company}.
Put {money} into {fund}.
Move {money} from {fund} to {fund}.
What are the fees on {fund}?
{fund} returned {percent} last year.
How did {fund} do {when}?
How is my portfolio doing?
Your portfolio is worth {money}.
Your portfolio is [up|down] {percent} [today|this week|this year|since {month}].
Your portfolio gained {money} in {month}.
My margin call is {money}.
You need {money} to meet the margin call.
Did {company} pay a dividend?
{company} pays a dividend of {price} a share.
The dividend of {money} was paid on {day}.
Reinvest the dividends from {company}.
What is the commission on {shares} shares?
The commission is {money}.
Should I buy or sell {company}?
I can't give advice on {company}, but I can take your order.
I want to roll my pension into an IRA.
Contribute {money} to my IRA.
How much can I put in my IRA this year?
Buy {money} of {company}.
Buy {money} worth of {fund}.
Sell enough {company} to raise {money}.
The bond matures on {day}.
The bond pays {percent} until {year}.
Is the market open on {weekday}?
The market [opens|closes] at {clock}.
Please repeat the order.
To confirm, you are buying {shares} shares of {company} at {price}.
To confirm, you are selling {shares} shares of {company} at market.
"""

IDENTITY = """
My name is {first} {last}.
This is {first} {last}.
I'm {first} {last}, my date of birth is {birthday}.
{first} {last} speaking.
It's {first}, {spelled}.
My last name is {lastspelled}.
That's {spelled}.
My first name is {first}.
I was born on {birthday}.
My date of birth is {birthday}.
My birthday is {day}.
My phone number is {phone}.
You can reach me at {phone}.
Call me back at {phone}.
Call me on {weekday} after {clock}.
My address is {house} {street}, {city}.
I live at {house} {street}.
I moved to {house} {street} in {month}.
I moved from {city} to {city} {when}.
My ZIP code is {postcode}.
The ZIP code is {postcode}.
My mother's maiden name is {last}.
My employer is {company}.
I work for {company} in {city}.
My customer number is {account}.
My employee number is {code}.
My policy number is {reference}.
The account is in the name of {first} {last}.
Could I speak to {first} {last}, please?
Is {first} there?
I have an appointment with {first} {last} on {day} at {clock}.
I'd like an appointment on {weekday} at {clock}.
Can we meet on {weekday} at {clock}?
Can I come in {soon}?
The branch on {street} [opens|closes] at {clock}.
What time does the {city} branch [open|close]?
Where is the nearest [branch|ATM|cash machine]?
The nearest branch is at {house} {street}.
"""

AGENT = """
Thank you for calling, my name is {first}.
Thank you for calling, this is {first}. How can I help you?
Good [morning|afternoon|evening], this is {first}.
Good [morning|afternoon|evening], how can I help you [today|]?
Welcome to the bank, how may I help?
How can I help you today?
What can I do for you?
May I have your [name|full name|account number|card number|date of birth], please?
May I have your [phone number|address|ZIP code|customer number], please?
Can you [give|tell] me your [name|account number|card number|date of birth|address|PIN]?
Could you spell your [last name|first name|name], please?
Could you repeat that, please?
Could you repeat the [number|name|amount|last four digits|code], please?
What are the last four digits of your {cardkind}?
What's the amount of the [payment|transfer|charge]?
Which account would you like to use?
For security, please tell me your [date of birth|mother's maiden name|ZIP code|phone number].
I've sent a code to your [phone|email|mobile]. Please read it to me.
{agent}.
{agent}. [Your new card is on its way|I have found your account|One moment, please|Please stay on the line].
{agent}, {first}. Is there anything else I can help you with?
{agent}, let me look at your {acctname}.
{agent}, I can see a payment of {money} on {day}.
{agent}, the balance is {money}.
{agent}. Your reference number is {reference}.
Please hold while I [check|look into] your {thing}.
Please hold the line.
One moment, please.
I'll transfer you to [my colleague|the fraud team|the mortgage team|a specialist|my manager].
I'll put you through to [my colleague|the fraud team|the mortgage team|the card team].
I've [updated|changed|cancelled|confirmed|checked|found] your {thing}.
I have [updated|changed|cancelled|confirmed] the {thing} for you.
Your {thing} has been [updated|changed|cancelled|confirmed|received|approved].
Your {thing} will be [ready|sent|processed|updated] on {weekday}.
You will receive [an email|a letter|a text message|a call] within {few} days.
It takes {few} [days|working days|weeks|hours].
It may take up to {few} [days|hours|weeks].
Is that correct?
Is there anything else?
Is there anything else I can do for you?
So that's {money} from {acctname} to {acctname}, is that right?
That's {money} to {first} {last} on {day}, correct?
Just to confirm, you want to [send|transfer|pay] {money} to {payee}.
This call [may be|is] recorded for [training|quality|security].
Our lines are open from {clock} to {clock}.
Our offices are closed on {weekday}.
Have a [nice|good|great|lovely] [day|evening|weekend|afternoon].
Thank you for calling and have a [nice|good|great] day.
Thank you for [calling|waiting|your help|your patience|your business].
Goodbye.
You're welcome.
I'm afraid your {thing} [has expired|was declined|is not available|has not arrived].
I'm afraid the [branch|office|system|line] is closed {when}.
"""

TALK = """
Hello.
Hello, [good morning|good afternoon|good evening].
Hi there.
Yes.
Yes, please.
Yes, that's [right|correct|fine|it|me|my account].
No.
No, thank you.
No, that's [all|wrong|not right|everything|not my account|not mine].
Okay, [thank you|thanks|great|perfect|that works|I'll wait|I understand].
That's [all|it|correct|right|wrong|fine|great|wonderful|terrible|too much|too late|very kind].
Thank you very much.
Thanks for your help.
Bye.
Bye for now.
Sorry, I didn't [hear|catch|understand] that.
Can you hear me?
I can't hear you very well.
The line is [bad|breaking up|very quiet|noisy].
I'm calling about my {thing}.
I'm calling about the {thing} from {when}.
I have a question about [my|the|your] {thing}.
I need help with my {thing}.
I want to [check|change|cancel|confirm|update] my {thing}.
Can you [check|change|cancel|confirm|update|explain] my {thing}?
Can you help me with my {thing}?
There's a problem with my {thing}.
There's a mistake in my {thing}.
My {thing} is [wrong|late|missing|too high|too low|not working].
My {thing} and my {thing} are both [wrong|late|missing|fine].
What happened to my {thing}?
Why is my {thing} so [high|low|late|slow]?
Where can I find my {thing}?
When did you [send|change|cancel|receive|check] my {thing}?
I've been waiting for {few} [days|hours|minutes|weeks].
I've called {few} times about this.
I spoke to {first} {when}.
I spoke to {first} in the {city} office {when}.
I'm {feeling} about my {thing}.
I'm {feeling}, to be honest.
{filler}, I'm calling about my {thing}.
{filler}, I'd like to [check|change|cancel] my {thing}.
{filler}, my {thing} is still [wrong|missing|late].
{filler}, can I speak to [someone|a manager|an agent|{first}]?
{filler}, how much is it?
{filler}, it's {money}.
{filler}, it's {four}.
{filler}, it was {money} at {shop}.
{filler}, that's {day}.
{filler}, it was on {weekday} at {clock}.
{filler}, I'd like to transfer {money} to {acct}.
{filler}, my name is {first} {last}.
{filler}, let me [find|check|get] my {cardkind}.
It was about {money}.
It happened {when} at {shop}.
It happened {when} around {clock}.
It was on {day}.
It was {weekday} at {clock}.
It's {weekday}, {day}.
Today is {weekday}, {day}.
I'll [call back|think about it|go to the branch|send the form] {soon}.
I'll [do|pay|send|sign] it {soon}.
Let me [check|think|get a pen|find my glasses|ask my wife|ask my husband].
How is the weather in {city}?
The weather is [nice|terrible|lovely|cold|hot] in {city} {when}.
We went to {city} {when}.
My flight to {city} leaves at {clock} on {weekday}.
My [train|flight|meeting|appointment] is at {clock}.
My [dog|cat|son|daughter|neighbor] is [outside|asleep|hungry|at school|in the garden].
Did you see the game {when}?
Have you been to {country}?
I [really|always|never|sometimes] [like|need|use|check|forget] my {thing}.
I'm driving, can you [call me back|hold on|speak up]?
Please speak [slowly|louder|clearly|a little slower].
Please [wait|hold on|try again|call back|send it again|listen].
Can I get that in writing?
Can you email me the {thing}?
Can you read that back to me?
Please write this down.
That was {few} [days|weeks|months|years] ago.
There were {few} payments of {money}.
I have {few} accounts with you.
I paid {money} for {few} tickets.
It costs {money}.
That's {money}.
{money}, please.
{money} from {acct}, please.
From {acct} to {acct}.
On {day}.
At {clock}.
{weekday} at {clock}.
{loose_digits}.
{loose_digits}.
It's {loose_digits}.
The number is {loose_digits}.
"""

WORDS = _words(
    """
able above across act afraid after again age agree air alarm allow almost alone along already also amount anger
animal answer apple arm around arrive art ask autumn baby back bad bag ball band bank bar base basket bath beach
bean bear beat beautiful bed before begin behind bell belong below bench best better between bicycle big bird
birth bite black blanket blood blow blue board boat body bone book boot border born both bottle bottom bowl box
boy branch brave bread break breakfast breath bridge bright bring broken brown brush build burn bus busy butter
button buy cake call calm camera camp candle cap captain car card careful carry case castle cat catch cause
center chain chair chance change cheap cheese chicken child choose circle city class clean clear climb clock
close cloth cloud coast coat coffee cold collar color come common cook cool copper corn corner cost cotton count
country course cover cow cream cross crowd cry cup curtain cut damp dance danger dark daughter dead dear death
deep degree desk different dinner direction dirty discover dog door double doubt down draw dream dress drink
drive drop dry duck dust duty early earth east easy eat edge egg eight either electric else empty end engine
enough enter even event every example face fact fair fall false family famous far farm fast fat father fear
feather feed feel feet fence fever field fight fill film final find finger finish fire first fish five flag
flame flat float floor flower fly fold follow food foot forest forget fork forward frame free fresh friend frog
front fruit full funny game garden gate general gentle gift girl give glass glove goat gold good govern grain
grand grass great green grey group grow guess guide gun hair half hammer hand happy harbor hard hat hate heart
heat heavy help here hide high hill history hold holiday hollow honest hook hope horn horse hospital hotel hour
house huge human hunt hurry ice idea ill important inside iron island jacket jelly join journey judge juice jump
just keep kettle key kick kind king kitchen knee knife knock know ladder lady lake lamp land language large last
late laugh law lead leaf learn leather leave left leg lemon lesson letter level library lift light like line
lion lip list listen little live lock long look loose lose loud love low lunch machine map mark market match
meal measure meet member memory metal middle milk mind minute mirror miss mix modern money monkey moon morning
mother motion mountain mouse mouth move music nail name narrow nation near neck needle nerve never new news
night nine noise north nose note nothing number nurse nut ocean offer office oil old open opinion orange order
other oven over owner page pain paint pair pan paper parcel parent park part partner party past paste path pay
peace pen pencil people pepper perfect person picture pig pin pipe place plane plant plate play please plenty
pocket point poison police polish poor port position possible pot potato powder power present pretty prison
private problem process produce profit promise proud pull pump punish pupil push put quality queen question
quick quiet quite radio rail rain range rat rate ray reach read ready reason record red regret religion remember
repair report rest reward rhythm rice rich ride right ring river road rock roll roof room root rough round rub
rule run sad safe sail salt same sand say scale school science scissors screw seat second secret see seed sell
send serious seven shade shake shame sharp sheep shelf ship shirt shock shoe shop short shut side sign silk
silver simple sister size skin skirt sky sleep slip slope slow small smash smell smile smoke smooth snake sneeze
snow soap society sock soft son song sound soup south space spade special sponge spoon spring square stage stamp
star start station steam steel stem step stick stiff still stitch stocking stomach stone stop store story
straight strange street stretch strong structure such sudden sugar suggestion summer support surprise sweet swim
system table tail take talk tall taste tax teaching tendency test than theory thick thin think thought thread
throat through thumb thunder ticket tight time tin tired toe together tomorrow tongue tooth top touch town trade
train transport tray tree trick trouble trousers true turn twist umbrella under unit up use value verse very
vessel view violent voice waiting walk wall war warm wash waste watch water wave wax way weather week weight
west wet wheel when whip whistle white wide wild will wind window wine wing winter wire wise with woman wood
wool word work world worm worth wound writing wrong year yellow yesterday young zebra although because beside
during however instead perhaps rather several sometimes therefore unless until usually while without anyone
everyone nobody something everything somewhere maybe really always often about against among another anything
became become began believe business company consider continue could decide describe develop difference
difficult education effect energy especially experience explain federal figure foreign future government happen
health heard himself hundred including increase information institute interest international involve itself
knowledge leader learned lived material matter military million moment months national natural nearly original
outside particular perform period personal physical political population practice president pressure probably
program project property provide public published quickly received research result return section sense service
services shown similar social specific stand state statement strength student studied subject suddenly surface
thing though thousand thousands toward training treatment various volume wanted whole within
"""
)
